"""Does memory grow with the length of a clip? One process a length restores a clip that never repeats."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch

from data.media import MediaInfo, OutputOptions, open_writer
from projects.program import new_parser, run_program

SIZE, RATE, PIECE = (48, 64), 25, 100  # (height, width); frames per second; frames that are made at once
# It prints the process's peak as the kernel counts it, which is exact to the page, unlike the report's line.
PROGRAM = """
import resource, sys
from projects.video_diffusion_sr.cli import main
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.program import new_parser, run_program
code = main(SEEDVR2_TINY, sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def peaks(lengths: Sequence[int], flags: Sequence[str] = ()) -> dict[int, float]:
    """The peak memory of a process in MiB, for clips of these lengths in frames, on the CPU with the tiny preset."""
    with tempfile.TemporaryDirectory() as folder:
        return {length: _peak(length, Path(folder), flags) for length in lengths}


def _peak(length: int, folder: Path, flags: Sequence[str]) -> float:
    clip = moving_picture(folder / f"{length}.mp4", length)
    words = ["--video_path", str(clip), "--output_dir", str(folder / "out"), "--device", "cpu"]
    words += ["--res_h", str(SIZE[0]), "--res_w", str(SIZE[1]), *flags]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    return int(done.stdout.split()[-1]) / 1024


def moving_picture(path: Path, frames: int) -> Path:
    """Write a clip of this many frames in which a camera moves over noise."""
    picture = torch.randint(0, 256, (3, SIZE[0], 1024), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    info = MediaInfo(path, "video", SIZE[1], SIZE[0], frame_rate=Fraction(RATE), frame_count_hint=frames)
    with open_writer(path.with_name(path.name), info, SIZE, options=OutputOptions(metadata=False)) as writer:
        for start in range(0, frames, PIECE):
            numbers = range(start, min(start + PIECE, frames))
            shown = torch.stack([picture.roll(-number, 2)[..., : SIZE[1]] for number in numbers])
            writer.write(shown, [Fraction(number, RATE) for number in numbers])
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("lengths", nargs="*", type=int, default=[100, 400, 1600, 6400], help="frames (%(default)s)")
    lengths = parser.parse_args(arguments).lengths
    print(json.dumps({str(length): round(peak, 1) for length, peak in peaks(lengths).items()}))


if __name__ == "__main__":
    sys.exit(run_program(main))
