"""Make the weight files of the perceptual measures out of what their authors publish.

    python projects/perceptual_weights.py lpips --vgg16 vgg16-397923af.pth --measure lpips/weights/v0.1/vgg.pth \
        --output lpips.safetensors
    python projects/perceptual_weights.py dists --vgg16 vgg16-397923af.pth --measure DISTS_pytorch/weights.pt \
        --output dists.safetensors

--vgg16 is torchvision's classifier (ImageNet weights), --measure the small file in the Python packages `lpips` (0.1)
and `dists-pytorch`. The result is read by `projects/evaluate.py`, by validation while training, and, for LPIPS, by the
VAE's stage as `vae.perceptual_weights`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.checkpoint import read_state_dict, save_safetensors
from common.logger import get_logger, set_up_logging
from models.dists import StructureTextureDistance
from models.perceptual import PerceptualDistance
from projects.program import add_safetensors, new_parser, run_program
from projects.video_diffusion_sr.flag_types import to_path

logger = get_logger(__name__)

KINDS: dict[str, type[PerceptualDistance] | type[StructureTextureDistance]] = {
    "lpips": PerceptualDistance,
    "dists": StructureTextureDistance,
}


def renumbered(vgg16: dict[str, Any], network: PerceptualDistance | StructureTextureDistance) -> dict[str, Any]:
    """The weights of VGG-16 under the measure's names; the layer numbers agree, as pools have the same positions."""
    return {name: vgg16[name] for name in network.state_dict() if name.startswith("features.") and name in vgg16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Combine the files. Returns 0 if the result is written."""
    parser = new_parser(__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--vgg16", type=to_path, required=True, help="torchvision's VGG-16, .pth or .safetensors")
    parser.add_argument("--measure", type=to_path, required=True, help="the measure's own weights")
    add_safetensors(parser)
    flags = parser.parse_args(arguments)
    set_up_logging()
    kind = KINDS[flags.kind]
    joined = renumbered(dict(read_state_dict(flags.vgg16)), kind()) | dict(read_state_dict(flags.measure))
    network = kind.from_state(joined)
    save_safetensors(network.state_dict(), flags.output)
    logger.info("%s: %d tensors in %s", flags.kind, len(network.state_dict()), flags.output)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
