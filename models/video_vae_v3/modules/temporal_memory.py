"""Carried frames: the past frames that causal convolutions read when a clip is processed in slices."""

from typing import Protocol

import torch
from torch import Tensor, nn

from models.video_vae_v3.modules.rows import RowExchange, UnshardedRows
from models.video_vae_v3.modules.schedule import Schedule


class TemporalMemory(Protocol):
    """The interface of a clip's memory for the networks.

    Attributes:
        starts_clip: whether the next slice begins with the clip's first frame.
        rows: the exchange with the ranks that hold other rows of the clip's pictures.
    """

    starts_clip: bool
    rows: RowExchange

    def extend(self, owner: nn.Module, x: Tensor, kernel: int, stride: int) -> Tensor:
        """Prepend the past frames to x [B, C, T, H, W], for a convolution with `kernel` taps and `stride` in time."""

    def advance(self) -> None:
        """Call this after each slice has passed through the network."""


class ClipMemory:
    """The carried frames of one clip in one network (encoder or decoder), and the clip's schedule.

    The frames belong to the clip and not to the modules, so a network can process several clips concurrently. Make one
    memory per clip and network, pass it with every slice in order, and call `advance` after each slice.

    Args:
        schedule: the schedule of the clip.
        rows: the exchange with the ranks that hold other rows; None: this process holds all rows.
        device: device that stores frames between slices; None: the device that computed them.
        keep: False if no slice follows (an image or a whole clip), so that nothing is stored.
    """

    def __init__(
        self,
        schedule: Schedule,
        rows: RowExchange | None = None,
        device: torch.device | str | None = None,
        keep: bool = True,
    ) -> None:
        self.schedule, self.rows = schedule, rows or UnshardedRows()
        self.keep, self.starts_clip = keep, True
        self._device = device
        self._carried: dict[nn.Module, Tensor] = {}
        self._first: set[nn.Module] = set()  # layers whose carried frames are the clip's first frame only

    def put(self, owner: nn.Module, frames: Tensor) -> None:
        """Store a tensor for the next slice of `owner`, if `keep`. The caller must not change it afterwards."""
        if not self.keep:
            return
        self._carried[owner] = frames
        if self.starts_clip:
            self._first.add(owner)
        else:
            self._first.discard(owner)

    def take(self, owner: nn.Module, device: torch.device) -> Tensor:
        """Remove and return the tensor that `owner` stored, on `device`."""
        return self._carried.pop(owner).to(device, non_blocking=True)

    def holds(self, owner: nn.Module) -> bool:
        """Whether a tensor of `owner` is stored."""
        return owner in self._carried

    def follows_first(self, owner: nn.Module) -> bool:
        """Whether `owner` stored its tensor at the clip's first frame, which took the place of its own past."""
        return owner in self._first

    def advance(self) -> None:
        """Record that a slice has passed through the network, and move carried frames to the storage device."""
        self.starts_clip = False
        if self._device is not None:
            self._move(self._device)

    def offload(self) -> None:
        """Move all carried frames to the host, from CUDA asynchronously to pinned memory; `take` moves them back."""
        self._move("cpu")

    def _move(self, device: torch.device | str) -> None:
        for owner, frames in self._carried.items():
            if frames.is_cuda and torch.device(device).type == "cpu":
                host = torch.empty_like(frames, device="cpu", pin_memory=True)
                self._carried[owner] = host.copy_(frames, non_blocking=True)
            else:
                self._carried[owner] = frames.to(device)

    def extend(self, owner: nn.Module, x: Tensor, kernel: int, stride: int) -> Tensor:
        """Prepend the past frames to x [B, C, T, H, W], and store the last frames for the next slice.

        At the start of a clip, copies of the first frame are its past.
        """
        if kernel == 1:
            return x
        past = self.take(owner, x.device) if self.holds(owner) else x[:, :, :1].expand(-1, -1, kernel - 1, -1, -1)
        extended = torch.cat([past, x], dim=2)
        if kernel > stride and self.keep:
            self.put(owner, extended[:, :, stride - kernel :].clone())
        return extended
