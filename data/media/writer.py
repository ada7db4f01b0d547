"""Which writer does a result get?"""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path

from common.logger import printable
from data.media.codecs import OutputOptions
from data.media.encoding import choose, colour_out, picture_bits
from data.media.errors import MediaError, shown
from data.media.image_writer import ImageWriter
from data.media.info import MediaInfo
from data.media.largest import check_largest
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
    quiet: bool = False,
    frames_out: str | None = None,
    identity: Mapping[str, str] | None = None,
) -> MediaWriter:
    """Open a writer for the result of one input; the suffix of `path` decides the format.

    Args:
        path: .mp4, .mov, .mkv or .webm for clips; .png, .jpg, .webp, .tiff
            or .bmp for pictures. `output_path` picks one. Folders are created.
        info: the input. Its frame rate, pixel shape, sound and transparency are kept, and the subtitles, chapters,
            covers and tags in its file.
        size: (height, width) of the frames in pixels. Clips of odd size get one row or column more (docs/decisions).
        options: codec, depth, quality, frame rate, metadata. By default the result keeps the properties of the input;
            8 bits become H.264 4:2:0. The sound is left out if another frame rate changes the duration.
        quiet: do not log what is left out or changed, because another writer of the same input logs it.
        frames_out: "png": `path` is a folder, whatever its suffix, into which frame_00001.png, ... are written.
        identity: what the kept segments depend on, see `common.kept`. The writer keeps segments, and resumes after
            those of an earlier run with the same identity. None: none are kept.

    Raises:
        MediaError: the suffix names no format, the target is the input itself, it cannot be written, or the format does
            not take frames of this size. `BusyError`: another process is writing it.
        ValueError: the options exclude each other, or do not fit this suffix or input, see `data.media.encoding`.
    """
    path = Path(path)
    _refuse_input(path, folder_of(info.path))
    if frames_out not in (None, *FRAMES_OUT):
        raise ValueError(f"frames_out is None or one of {', '.join(FRAMES_OUT)}, not {frames_out!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if frames_out:
        png = choose(info, replace(options, codec="png"), info.colour)
        return SequenceWriter(path, info, encoding=png, frame_rate=options.frame_rate, quiet=quiet, identity=identity)
    suffix = path.suffix.lower()
    if suffix in WRITABLE_VIDEOS:
        encoding = choose(info, replace(options, container=suffix[1:]), info.colour)
        check_largest(path, encoding.encoder, size, "another codec: hevc, prores or ffv1 (--codec)")
        return VideoWriter(path, info, size, encoding=encoding, options=options, quiet=quiet, identity=identity)
    if suffix in WRITABLE_IMAGES:
        check_largest(path, WRITABLE_IMAGES[suffix], size, "convert the input to PNG, whose result is a PNG")
        bits, colour = picture_bits(info, options, suffix), colour_out(info.colour, options)
        return ImageWriter(path, info, bits=bits, colour=colour, metadata=options.metadata, quiet=quiet)
    raise MediaError(f"{shown(path)}: cannot write {path.suffix or 'a file without a suffix'}; use one of {KNOWN}")


def _refuse_input(path: Path, source: Path) -> None:
    """Raise MediaError if the target is the input."""
    if path.exists() and source.exists() and path.samefile(source):
        raise MediaError(f"{printable(str(path))}: is the input itself; choose another output folder")
