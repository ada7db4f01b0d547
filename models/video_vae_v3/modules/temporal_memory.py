"""The frames that a causal convolution has to see again when a clip arrives slice by slice."""

from typing import Protocol

import torch
from torch import Tensor, nn

from models.video_vae_v3.modules.rows import RowExchange, UnshardedRows
from models.video_vae_v3.modules.schedule import Schedule


class TemporalMemory(Protocol):
    """What the networks need of a clip's memory.

    Attributes:
        starts_clip: what comes next is the clip's first frame.
        rows: which rows of its pictures are here, and how the others are reached.
    """

    starts_clip: bool
    rows: RowExchange

    def extend(self, owner: nn.Module, x: Tensor, kernel: int, stride: int) -> Tensor:
        """x [B, C, T, H, W] with the frames before it in front, for a convolution of `kernel` taps in time."""

    def advance(self) -> None:
        """The slice is through the network."""


class ClipMemory:
    """Carried frames of one clip on its way through one network (encoder or decoder), and how the clip goes.

    They belong to the clip and not to the modules, so two clips can be in flight at once. Make one per clip, pass it to
    every slice in order, and call `advance` after each.

    Args:
        schedule: of the clip. rows: which rows of its pictures are here.
        device: where frames wait between slices; None leaves them where they were made.
        keep: False when no slice follows (an image, a whole clip, training): nothing is stored then.
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
        self._first: set[nn.Module] = set()  # layers that carry the clip's first frame alone

    def put(self, owner: nn.Module, frames: Tensor) -> None:
        """Keep a tensor for the next time that `owner` asks; it must not be changed by others."""
        if not self.keep:
            return
        self._carried[owner] = frames
        if self.starts_clip:
            self._first.add(owner)
        else:
            self._first.discard(owner)

    def take(self, owner: nn.Module, device: torch.device) -> Tensor:
        """What `owner` put here last, on `device`; its own from now."""
        return self._carried.pop(owner).to(device, non_blocking=True)

    def holds(self, owner: nn.Module) -> bool:
        """Has `owner` put something here?"""
        return owner in self._carried

    def follows_first(self, owner: nn.Module) -> bool:
        """Is the frame that `owner` carries the first one of the clip, alone? It stood for its own past then."""
        return owner in self._first

    def advance(self) -> None:
        """The slice is through: what comes next is no longer the start of the clip."""
        self.starts_clip = False
        if self._device is not None:
            self._move(self._device)

    def offload(self) -> None:
        """Move everything carried to pinned host memory, asynchronously; it comes back when it is taken."""
        self._move("cpu")

    def _move(self, device: torch.device | str) -> None:
        for owner, frames in self._carried.items():
            if frames.is_cuda and torch.device(device).type == "cpu":
                host = torch.empty_like(frames, device="cpu", pin_memory=True)
                self._carried[owner] = host.copy_(frames, non_blocking=True)
            else:
                self._carried[owner] = frames.to(device)

    def extend(self, owner: nn.Module, x: Tensor, kernel: int, stride: int) -> Tensor:
        """x with its past in front, of which the last frames are kept for the next slice."""
        if kernel == 1:
            return x
        past = self.take(owner, x.device) if self.holds(owner) else x[:, :, :1].expand(-1, -1, kernel - 1, -1, -1)
        extended = torch.cat([past, x], dim=2)
        if kernel > stride and self.keep:
            self.put(owner, extended[:, :, stride - kernel :].clone())
        return extended
