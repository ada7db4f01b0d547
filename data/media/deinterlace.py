"""Deinterlaces clips: every interlaced frame becomes one progressive frame."""

from collections import deque
from typing import Any

import av
from av.filter import Graph


class Deinterlacer:
    """FFmpeg's filter bwdif, which here gives one frame for each input frame.

    The filter reads one frame ahead, so its output is one call late; `push` and `flush` return every frame with the
    label of the input frame from which it was made.

    Args:
        stream: the video stream from which the frames come.
        only_flagged: do not change frames that are not marked as interlaced.
    """

    def __init__(self, stream: av.VideoStream, only_flagged: bool) -> None:
        which = "interlaced" if only_flagged else "all"
        self.graph = Graph()
        source = self.graph.add_buffer(template=stream)
        bwdif = self.graph.add("bwdif", f"mode=send_frame:parity=auto:deint={which}")
        self.graph.link_nodes(source, bwdif, self.graph.add("buffersink")).configure()
        self.labels: deque = deque()

    def push(self, frame: av.VideoFrame, label: Any) -> list[tuple[av.VideoFrame, Any]]:
        """Add a frame and a label for it. Returns the finished frames, each with its label."""
        self.labels.append(label)
        self.graph.vpush(frame)
        return self._finished()

    def flush(self) -> list[tuple[av.VideoFrame, Any]]:
        """End the clip. Returns the frames that are still in the filter, each with its label."""
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
