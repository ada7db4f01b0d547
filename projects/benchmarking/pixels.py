"""Pixels as the pipeline has them: on the host, coming to the device and leaving it slice by slice."""

from collections.abc import Iterator

import torch
from torch import Tensor

from models.video_vae_v3.modules.attn_video_vae import split_after_first


class HostPixels:
    """A clip and its result in host memory, pinned beside a CUDA device; copies run while the device computes.

    Frame after frame: a slice of frames is one stretch of memory then, which CUDA copies as it is. Of any other slice
    it would make an unpinned copy first, and wait.

    Args:
        clip: [1, 3, T, H, W] on the device that computes.
    Attributes:
        clip, frames: [T, 3, H, W] on the host; `frames` is filled by `keep`.
    """

    def __init__(self, clip: Tensor) -> None:
        self.device, cuda = clip.device, clip.is_cuda
        clip = clip[0].transpose(0, 1).contiguous()
        self.clip = torch.empty(clip.shape, dtype=clip.dtype, pin_memory=cuda).copy_(clip)
        self.frames = torch.empty(clip.shape, dtype=clip.dtype, pin_memory=cuda)
        self._stream = torch.cuda.Stream(clip.device) if cuda else None

    def slices(self, size: int | None) -> Iterator[Tensor]:
        """The clip in slices [1, 3, t, H, W] of 1 + size, size, ... frames on the device; the next one travels."""
        coming = None
        for part in split_after_first(as_clip(self.clip), size):
            here, coming = coming, self._send(part[0].transpose(0, 1))
            if here is not None:
                yield self._received(*here)
        yield self._received(*coming)

    def keep(self, start: int, frames: Tensor) -> None:
        """Frames [1, 3, t, H, W] of the result, the first of which is number `start`."""
        target, frames = self.frames[start : start + frames.shape[2]], frames[0].transpose(0, 1)
        if self._stream is None or not frames.is_cuda:
            target.copy_(frames)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            target.copy_(frames.contiguous(), non_blocking=True)
        frames.record_stream(self._stream)

    def arrive(self) -> None:
        """What the device computes next waits until everything kept is on the host."""
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def _send(self, part: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if self._stream is None:
            return part, None
        with torch.cuda.stream(self._stream):
            sent = torch.empty(part.shape, dtype=part.dtype, device=self.device)
            sent.copy_(part, non_blocking=True)
            return sent, self._stream.record_event()

    def _received(self, sent: Tensor, event: torch.cuda.Event | None) -> Tensor:
        if event is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(event)
            sent.record_stream(stream)
        return as_clip(sent)


def as_clip(frames: Tensor) -> Tensor:
    """[T, 3, H, W] -> [1, 3, T, H, W], the same memory."""
    return frames.transpose(0, 1)[None]
