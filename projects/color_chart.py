"""A chart of all codes through every path of colour, and what of it comes back: the figures and the picture of
docs/color.md. The networks are left out; what differs is the program's own, and the codec's.

    python projects/color_chart.py --output docs/images/color.png
    python projects/color_chart.py --every_codec      # each codec and depth, its samples read back by FFmpeg alone
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.logger import get_logger, set_up_logging
from data.media import OutputOptions, open_media, open_writer, rgb_of
from data.media.codecs import CODECS, TABLE
from data.media.encoding import choose
from data.pixel_range import model_to_uint8, unit_to_model
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.flag_types import to_path
from projects.video_diffusion_sr.output_form import pixel_path
from projects.video_diffusion_sr.request import ResultOptions

logger = get_logger(__name__)

WIDTH, HEIGHT, FRAMES = 876, 32, 3  # one column per code of 10-bit video
STRIP, LABEL = 26, 18  # pixels
EXACT = {"codec": "ffv1", "pixel_format": "yuv420p10le"}


@dataclass(frozen=True)
class Kind:
    """A kind of source.

    name: its name in the table.
    tags: its primaries, transfer and matrix, by the numbers of ITU-T H.273.
    """

    name: str
    tags: tuple[int, int, int]


KINDS = (
    Kind("BT.709, 10 bits", (1, 1, 1)),
    Kind("Display P3, 10 bits", (12, 13, 1)),
    Kind("BT.2020 SDR, 10 bits", (9, 14, 9)),
    Kind("BT.2020 PQ", (9, 16, 9)),
    Kind("BT.2020 HLG", (9, 18, 9)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, write the picture."""
    parser = new_parser(__doc__)
    parser.add_argument("--output", type=to_path, help="a PNG of the charts; default: none is drawn")
    parser.add_argument("--every_codec", action="store_true", help="each codec in each of its depths, and no picture")
    args = parser.parse_args(arguments)
    set_up_logging()
    if args.every_codec:
        every_codec()
        return
    strips = []
    logger.info("| source | stored as | largest error, codes of 10 bits | mean error | distinct codes |")
    logger.info("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            source = write_chart(Path(folder) / "in.mkv", kind)
            for name, options in (("FFV1 (exact)", EXACT), ("the default", {}), ("8 bits, dithered", {"bit_depth": 8})):
                if options.get("bit_depth") == 8 and kind.tags[1] in (16, 18):
                    name, options = "--hdr sdr", {"hdr": "sdr"}
                shown, result = through(source, Path(folder), OutputOptions(**options))
                if name == "--hdr sdr":
                    strips.append((f"{kind.name}: {name}", result))
                    continue
                logger.info("%s", row(kind.name, name, result))
                if name == "the default":
                    strips.append((f"{kind.name}: as the networks get it", shown))
    if args.output:
        draw(strips, args.output)


def write_chart(path: Path, kind: Kind) -> Path:
    """Write a lossless clip of greys with one code of video per column."""
    luma = (64 + np.arange(WIDTH)).astype(np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p10le"
        for number in range(FRAMES):
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p10le")
            values: tuple[np.ndarray | int, ...] = (luma, 512, 512)
            for plane, value in zip(frame.planes, values, strict=True):
                np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, -1)[:, : plane.width] = value
            for target in (stream.codec_context, frame):
                target.color_primaries, target.color_trc, target.colorspace = kind.tags
                target.color_range = 1
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def through(source: Path, folder: Path, options: OutputOptions) -> tuple[Tensor, Tensor]:
    """(the first frame for the networks, uint8 [3, H, W]; the first frame of the result, float32 in [0, 1])."""
    with open_media(source) as reader:
        path = pixel_path(reader.info, ResultOptions(output=options))
        known = path.into(rgb_of(list(reader), dtype=path.dtype_in))
        unit = known if known.is_floating_point() else known / 255
        container = choose(reader.info, options, reader.info.colour).containers[0]
        target = folder / f"out.{container}"
        with open_writer(target, reader.info, (HEIGHT, WIDTH), options=options) as writer:
            writer.write(path.back(unit_to_model(unit)), [Fraction(n, 25) for n in range(FRAMES)])
    with open_media(target) as reader:
        result = rgb_of(list(reader), dtype=torch.float32)[0]
    return model_to_uint8(unit_to_model(unit[0])), result


def every_codec() -> None:
    """Print the table of all codecs and depths, with the largest errors over all sources that each accepts."""
    logger.info("| stored as | sources | tags kept | largest error, codes of 10 bits | mean error | distinct codes |")
    logger.info("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        sources = [(kind, write_chart(Path(folder) / f"{n}.mkv", kind)) for n, kind in enumerate(KINDS)]
        for name, depth in [(codec, depth) for codec in CODECS[1:-1] for depth in TABLE[codec].depths]:
            found = []
            for kind, source in sources:
                try:
                    through(source, Path(folder), OutputOptions(name, depth))
                except ValueError:  # HDR cannot be stored in 8 bits
                    continue
                codes, tags, stored = stored_codes(next(Path(folder).glob("out.*")))
                found.append((np.abs(codes - np.arange(WIDTH)), len(np.unique(codes)), tags[:2] == kind.tags[:2]))
                next(Path(folder).glob("out.*")).unlink()
            errors = [error for error, _, _ in found]
            figures = f"{np.max(errors):.2f} | {np.mean(errors):.3f} | {min(count for _, count, _ in found)}"
            kept = sum(kept for _, _, kept in found)
            logger.info(
                "%s", f"| {name}, {depth} bits ({stored}) | {len(found)} of {len(KINDS)} | {kept} | {figures} |"
            )


def stored_codes(path: Path) -> tuple[np.ndarray, tuple[int, int, int], str]:
    """Read the first frame's middle row: (luma or green in codes of 10-bit video above black, tags, pixel format)."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    bits, name = frame.format.components[0].bits, frame.format.name
    plane = np.frombuffer(memoryview(frame.planes[0]), np.uint8 if bits == 8 else np.uint16).reshape(HEIGHT, -1)[
        HEIGHT // 2
    ]
    values = plane.reshape(-1, 4)[:WIDTH, 1] if name.startswith("bgr") else plane[:WIDTH]
    unit = values / (2**bits - 1) if frame.format.is_rgb else (values / 2 ** (bits - 8) - 16) / 219
    return unit * 4 * 219, (int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace)), name


def row(source: str, stored: str, result: Tensor) -> str:
    """Format a row of the table."""
    codes = result[1] * 876  # for grey, green equals luma
    error = (codes - torch.arange(WIDTH)).abs()
    distinct = len(codes.round().unique())
    return f"| {source} | {stored} | {error.max():.2f} | {error.mean():.3f} | {distinct} of {WIDTH} |"


def draw(strips: list[tuple[str, Tensor]], path: Path) -> None:
    """Draw the charts below each other, with their names."""
    sheet = Image.new("RGB", (WIDTH + 16, len(strips) * (STRIP + LABEL) + 8), (24, 24, 24))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, (name, picture) in enumerate(strips):
        top = 4 + number * (STRIP + LABEL)
        levels = picture if picture.dtype == torch.uint8 else (picture * 255).round().to(torch.uint8)
        pen.text((8, top), name, fill=(235, 235, 235), font=font)
        sheet.paste(Image.fromarray(levels[:, :STRIP].permute(1, 2, 0).contiguous().numpy()), (8, top + LABEL))
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(run_program(main))
