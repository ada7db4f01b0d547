"""Keeps finished segments of a result, so that a later run can resume after them.

Every run writes the same segments and joins them after the last frame, so a resumed run gives the same bytes as an
uninterrupted one.
"""

from collections.abc import Mapping

from common.kept import Kept, discard
from common.logger import get_logger
from data.media.errors import shown
from data.media.media_writer import MediaWriter

logger = get_logger(__name__)

LEAST_KEPT = 96  # frames of a segment, at least: each begins with a key frame, of which x264 makes one in 250


class SegmentedWriter(MediaWriter):
    """A writer that can keep segments, and resume after those of an earlier run.

    Attributes:
        segment_from: number of the first frame of the current segment.
        border: if the next frame begins a segment, the number of the first frame of its shot; otherwise None.
    """

    segment_from = 0
    border: int | None = None

    def _take_up(self, identity: Mapping[str, str] | None, frames: int | None, quiet: bool) -> None:
        """Resume after the segments that an earlier run kept, if they fit this run; otherwise they are removed.

        Args:
            identity: what the segments depend on, see `open_writer`; None: keep nothing.
            frames: number of frames of the input; None if unknown.
            quiet: do not log that segments cannot be used.
        """
        if identity is None or not is_long(frames):
            discard(self.claim.stem)
            return
        self.kept = Kept(self.claim.stem, identity, {"frames", "ticks", "shot"})
        if self.kept.dropped and not quiet:
            left = sum(piece.facts["frames"] for piece in self.kept.pieces)
            logger.warning(
                "%s: what an earlier run kept %s cannot be used: %s",
                shown(self.path), f"after frame {left}" if left else "of it", self.kept.dropped,
            )  # fmt: skip
        self.frames = self.segment_from = sum(piece.facts["frames"] for piece in self.kept.pieces)
        self.shot = self.kept.pieces[-1].facts["shot"] if self.kept.pieces else 0

    def _begin_segment(self, shot: int) -> None:
        if self.kept is not None and self.frames - self.segment_from >= LEAST_KEPT:
            self.border = shot

    def _keep_segment(self, ticks: int = 0) -> None:
        """Keep the temporary file or folder, which is a complete segment.

        Args:
            ticks: the time of its first frame in ticks of the clip's clock, see `data.media.joined.Segment`.
        """
        assert self.kept is not None and self.border is not None, "a segment has ended"
        facts = {"frames": self.frames - self.segment_from, "ticks": ticks, "shot": self.border}
        self.kept.add(self.temporary, facts)
        self.segment_from, self.border = self.frames, None


def is_long(frames: int | None) -> bool:
    """Whether segments of a clip with about this many frames are kept; None: its length is unknown, and they are."""
    return frames is None or frames > LEAST_KEPT
