"""Which reader does a file get?"""

from os import PathLike
from pathlib import Path

from common.logger import get_logger
from data.media.clip_range import WHOLE, ClipRange
from data.media.clip_range_reader import ClipRangeReader
from data.media.errors import decoding
from data.media.image_reader import AnimationReader, ImageReader
from data.media.info import MediaReader
from data.media.picture_file import holds_picture, is_animation, open_picture
from data.media.sequence import is_sequence
from data.media.sequence_reader import SequenceReader
from data.media.video_reader import Alpha, Deinterlace, VideoReader

logger = get_logger(__name__)


def open_media(
    path: str | PathLike[str],
    *,
    deinterlace: Deinterlace = "auto",
    alpha: Alpha = "white",
    clip_range: ClipRange = WHOLE,
) -> MediaReader:
    """Open a video, a picture, an animation or a clip of numbered pictures, by its content and not by its name.

    A line is logged for everything that was chosen or left out (`MediaReader.notes`).

    Args:
        path: a file; for numbered pictures, their folder or a printf pattern such as `walk/frame_%05d.png`.
        deinterlace: for videos; "auto" deinterlaces frames that are marked as interlaced, "always" all, "never" none.
        alpha: for clips; "keep" gives frames with their transparency, "white" composites them over white. The
            transparency of a picture is in `MediaInfo.alpha`.
        clip_range: the part of a clip that is read; pictures are always read whole.

    Raises:
        MediaError: the file is missing, empty, not media or damaged, or it or the part has no frame. If a decoder
            raised another exception, this is its `__cause__`.
        ValueError: `deinterlace` is none of the three values.
    """
    path = Path(path)
    if deinterlace not in ("auto", "always", "never"):
        raise ValueError(f"deinterlace is 'auto', 'always' or 'never', not {deinterlace!r}")
    reader: MediaReader
    with decoding(path):
        if is_sequence(path):
            reader = SequenceReader(path, alpha)
        elif holds_picture(path):
            with open_picture(path) as image:
                animated = is_animation(image)
            reader = AnimationReader(path, alpha) if animated else ImageReader(path)
        else:
            reader = VideoReader(path, deinterlace, alpha)
        if clip_range.applies_to(reader.info.kind):
            reader = ClipRangeReader(reader, clip_range)
    for note in reader.notes:
        logger.warning("%s", note)
    return reader
