"""Deinterlacing: one progressive frame out for every interlaced frame in."""

from collections import deque
from typing import Any

import av
from av.filter import Graph


class Deinterlacer:
    """FFmpeg's bwdif, one frame per frame.

    The filter reads one frame ahead, so its output is one call late; `push` and `flush` return every picture with the
    label of the frame from which it was made.

    Args:
        stream: the video stream the frames come from.
        only_flagged: leave frames alone that are marked progressive.
    """

    def __init__(self, stream: av.VideoStream, only_flagged: bool) -> None:
        which = "interlaced" if only_flagged else "all"
        self.graph = Graph()
        source = self.graph.add_buffer(template=stream)
        bwdif = self.graph.add("bwdif", f"mode=send_frame:parity=auto:deint={which}")
        self.graph.link_nodes(source, bwdif, self.graph.add("buffersink")).configure()
        self.labels: deque = deque()

    def push(self, frame: av.VideoFrame, label: Any) -> list[tuple[av.VideoFrame, Any]]:
        """Add one frame; returns the finished ones, each with its label."""
        self.labels.append(label)
        self.graph.vpush(frame)
        return self._finished()

    def flush(self) -> list[tuple[av.VideoFrame, Any]]:
        """The frames still inside, at the end of the clip."""
        self.graph.vpush(None)
        return self._finished()

    def _finished(self) -> list[tuple[av.VideoFrame, Any]]:
        finished: list[tuple[av.VideoFrame, Any]] = []
        while True:
            try:
                frame = self.graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return finished
            finished.append((frame, self.labels.popleft()))
