"""Options of FFmpeg's muxers, and which of their errors are caused by the disk."""

import errno

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOENT, errno.EACCES)


def muxer_options(form: str, ticks: int, complete: bool = True, keys: bool = False) -> dict[str, str]:
    """Options of FFmpeg's muxer `form`.

    Args:
        ticks: of the clock, per second.
        complete: write the index in front, so that a player can start while the file loads.
        keys: write tags as QuickTime keys.
    """
    if form in ("matroska", "webm"):
        return {"fflags": "+bitexact"}  # no random number that identifies the file: the same frames give the same bytes
    clocks = {"video_track_timescale": str(ticks), "movie_timescale": str(ticks)}
    flags = "+faststart" * complete + "+use_metadata_tags" * keys
    return {"movflags": flags, **clocks} if flags else clocks


def is_disk_error(error: BaseException) -> bool:
    """Whether the disk caused an error, so that another choice of tracks would not help."""
    return getattr(error, "errno", None) in DISK_ERRORS
