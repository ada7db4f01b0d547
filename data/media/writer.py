"""Which writer fits the suffix?"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from os import PathLike
from pathlib import Path

from common.logger import printable
from data.media.codecs import OutputOptions
from data.media.encoding import choose, colour_out, picture_bits
from data.media.errors import MediaError, shown
from data.media.image_writer import ImageWriter
from data.media.info import MediaInfo
from data.media.media_writer import MediaWriter
from data.media.names import WRITABLE_IMAGES, WRITABLE_VIDEOS
from data.media.sequence import folder_of
from data.media.sequence_writer import FRAMES_OUT, SequenceWriter
from data.media.video_writer import VideoWriter

KNOWN = ", ".join([*WRITABLE_VIDEOS, *WRITABLE_IMAGES])


def open_writer(
    path: str | PathLike,
    info: MediaInfo,
    size: tuple[int, int],
    *,
    options: OutputOptions = OutputOptions(),  # noqa: B008 (frozen)
    frame_rate: Fraction | None = None,
    overwrite: bool = True,
    quiet: bool = False,
    metadata: bool = True,
    frames_out: str | None = None,
    identity: Mapping[str, str] | None = None,
) -> MediaWriter:
    """A writer for the result of one input; the format follows the suffix of `path`.

    Args:
        path: .mp4, .mov, .mkv or .webm for clips; .png, .jpg, .webp, .tiff
            or .bmp for pictures. `output_path` picks one. Folders are created.
        info: the input: its frame rate, pixel shape, sound and transparency are kept, and what else its file holds:
            subtitles, chapters, covers, tags.
        size: (height, width) of the frames in pixels. Clips of odd size get one row or column more (docs/decisions).
        options: codec, depth, pixel format, quality; by default what keeps what the input has: of 8 bits H.264 4:2:0.
        frame_rate: play the same frames at this constant rate; the sound is left out when that changes the duration.
        overwrite: replace an existing file; otherwise it is an error.
        metadata: False leaves out tags, dates, places, covers and attached files, of pictures EXIF, XMP and texts.
        frames_out: "png": `path` is a folder to be, whatever its suffix, which gets frame_00001.png, frame_00002.png...
        quiet: tell nothing of what is left out or changed, where a writer of the same input has told it already.
        identity: of what is kept of a long clip, behind which the writer goes on, see `common.kept`; None: nothing is.

    Raises:
        MediaError: the suffix names no format, the file exists, or the target is the input itself.
        ValueError: the options do not go together, or not with this suffix or input, see `data.media.encoding`.
    """
    path = Path(path)
    _refuse(path, folder_of(info.path), overwrite)
    if frames_out not in (None, *FRAMES_OUT):
        raise ValueError(f"frames_out is None or one of {', '.join(FRAMES_OUT)}, not {frames_out!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if frames_out:
        png = choose(info, replace(options, codec="png"), info.colour)
        return SequenceWriter(path, info, encoding=png, frame_rate=frame_rate, quiet=quiet, identity=identity)
    suffix, common = path.suffix.lower(), {"quiet": quiet, "metadata": metadata}
    if suffix in WRITABLE_VIDEOS:
        encoding = choose(info, replace(options, container=suffix[1:]), info.colour)
        return VideoWriter(path, info, size, encoding=encoding, frame_rate=frame_rate, identity=identity, **common)
    if suffix in WRITABLE_IMAGES:
        bits, colour = picture_bits(info, options, suffix), colour_out(info.colour, options)
        return ImageWriter(path, info, bits=bits, colour=colour, **common)
    raise MediaError(f"{shown(path)}: cannot write {path.suffix or 'a file without a suffix'}; use one of {KNOWN}")


def _refuse(path: Path, source: Path, overwrite: bool) -> None:
    """MediaError where a file that is there must stay."""
    if path.exists() and not overwrite:
        raise MediaError(f"{printable(str(path))}: exists already; delete it or allow overwriting")
    if path.exists() and source.exists() and path.samefile(source):
        raise MediaError(f"{printable(str(path))}: is the input itself; choose another output folder")
