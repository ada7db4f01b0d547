"""Which writer fits the suffix?"""

from collections.abc import Mapping
from fractions import Fraction
from os import PathLike
from pathlib import Path

from data.media.errors import MediaError, printable, shown
from data.media.image_writer import ImageWriter
from data.media.info import MediaInfo
from data.media.names import WRITABLE_IMAGES, WRITABLE_VIDEOS
from data.media.sequence import folder_of
from data.media.sequence_writer import FRAMES_OUT, SequenceWriter
from data.media.video_writer import VideoWriter
from data.media.whole import MediaWriter

VISUALLY_LOSSLESS_CRF = 16
KNOWN = ", ".join([*WRITABLE_VIDEOS, *WRITABLE_IMAGES])


def open_writer(
    path: str | PathLike,
    info: MediaInfo,
    size: tuple[int, int],
    *,
    crf: float = VISUALLY_LOSSLESS_CRF,
    frame_rate: Fraction | None = None,
    overwrite: bool = True,
    quiet: bool = False,
    metadata: bool = True,
    frames_out: str | None = None,
    identity: Mapping[str, str] | None = None,
) -> MediaWriter:
    """A writer for the result of one input; the format follows the suffix of `path`.

    Args:
        path: .mp4, .mov or .mkv for clips (H.264 8-bit 4:2:0, BT.709 limited range, tagged); .png, .jpg, .webp, .tiff
            or .bmp for pictures. `output_path` picks one. Folders are created.
        info: the input: its frame rate, pixel shape, sound and transparency go over, and what else its file holds:
            subtitles, chapters, covers, tags.
        size: (height, width) of the frames in pixels. Clips of odd size get one row or column more (docs/decisions).
        crf: H.264 quality, 0 (lossless) to 51; 16 cannot be told from the source by eye.
        frame_rate: play the same frames at this constant rate; the sound is left out when that changes the duration.
        overwrite: replace an existing file; otherwise it is an error.
        metadata: False leaves out tags, dates, places, covers and attached files, of pictures EXIF, XMP and texts.
        frames_out: "png": `path` is a folder to be, whatever its suffix, which gets frame_00001.png, frame_00002.png...
        quiet: tell nothing of what is left out or changed, where a writer of the same input has told it already.
        identity: of what is kept of a long clip, behind which the writer goes on, see `common.kept`; None: nothing is.

    Raises:
        MediaError: the suffix names no format, the file exists, or the target is the input itself.
    """
    path = Path(path)
    if not 0 <= crf <= 51:
        raise ValueError(f"crf goes from 0 (lossless) to 51 (coarse), got {crf}")
    _refuse(path, folder_of(info.path), overwrite)
    if frames_out not in (None, *FRAMES_OUT):
        raise ValueError(f"frames_out is None or one of {', '.join(FRAMES_OUT)}, not {frames_out!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if frames_out:
        return SequenceWriter(path, info, frame_rate=frame_rate, quiet=quiet)
    if path.suffix.lower() in WRITABLE_VIDEOS:
        wishes = {"frame_rate": frame_rate, "quiet": quiet, "metadata": metadata, "identity": identity}
        return VideoWriter(path, info, size, crf=crf, **wishes)
    if path.suffix.lower() in WRITABLE_IMAGES:
        return ImageWriter(path, info, metadata=metadata, quiet=quiet)
    raise MediaError(f"{shown(path)}: cannot write {path.suffix or 'a file without a suffix'}; use one of {KNOWN}")


def _refuse(path: Path, source: Path, overwrite: bool) -> None:
    """MediaError where a file that is there must stay."""
    if path.exists() and not overwrite:
        raise MediaError(f"{printable(str(path))}: exists already; delete it or allow overwriting")
    if path.exists() and source.exists() and path.samefile(source):
        raise MediaError(f"{printable(str(path))}: is the input itself; choose another output folder")
