"""The options of FFmpeg's muxers, and which of their errors the disk causes."""

import errno

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOENT, errno.EACCES)


def muxer_options(form: str, ticks: int, complete: bool = True, keys: bool = False) -> dict[str, str]:
    """Options of FFmpeg's muxer `form`.

    Args:
        form: "mp4", "mov", "matroska" or "webm".
        ticks: ticks of the clip's clock per second, used by MP4 and MOV.
        complete: put the index of an MP4 or MOV at the front, so that players can start while the file loads.
        keys: write the tags of an MP4 or MOV as QuickTime keys.
    """
    if form in ("matroska", "webm"):
        return {"fflags": "+bitexact"}  # no random file identifier, so that the same frames give the same bytes
    clocks = {"video_track_timescale": str(ticks), "movie_timescale": str(ticks)}
    flags = "+faststart" * complete + "+use_metadata_tags" * keys
    return {"movflags": flags, **clocks} if flags else clocks


def is_disk_error(error: BaseException) -> bool:
    """Whether the disk caused an error, so that leaving out tracks would not help."""
    return getattr(error, "errno", None) in DISK_ERRORS
