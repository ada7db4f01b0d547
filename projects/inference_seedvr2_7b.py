"""Restore videos and pictures with SeedVR2-7B, in one step.

torchrun --nproc-per-node=1 projects/inference_seedvr2_7b.py --video_path clips --output_dir restored
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from projects.video_diffusion_sr.start import start

if __name__ == "__main__":
    sys.exit(start("seedvr2_7b"))
