"""The frames that a causal convolution has to see again when a clip arrives slice by slice."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.video_vae_v3.modules.fours import FilteredPast
from models.video_vae_v3.modules.rolling import LeanRing, Ring, Rolling


class TemporalMemory:
    """Carried frames of one clip on its way through one network (encoder or decoder).

    They belong to the clip and not to the modules, so two clips can be in flight at once. Make one per clip, pass it to
    every slice in order, and call `advance` after each.

    Args:
        device: where frames wait between slices; None leaves them where they were made.
        keep: False when no slice follows (a whole clip, training): nothing is stored then.
    Attributes:
        others_wait: somebody works on the next slice meanwhile and wants the last frames of every input early, by
            `offer`; nobody does here.
        rolling: set at the start of a clip whose frames go through large levels one by one (see `rolling.py`).
    """

    others_wait = False

    def __init__(self, device: torch.device | str | None = None, keep: bool = True) -> None:
        self._carried: dict[nn.Module, Tensor] = {}
        self._remembered: Counter[nn.Module] = Counter()
        self._device = device
        self.keep = keep
        self.starts_clip = True
        self.rolling: Rolling | None = None

    def advance(self) -> None:
        """The slice is through: what comes next is no longer the start of the clip."""
        self.starts_clip = False

    def park(self) -> None:
        """Let everything carried wait on the host, pinned, until `resume`; nobody waits for the copy."""
        for owner, frames in self._carried.items():
            self._carried[owner] = _on_host(frames)
        for ring in self._rings():
            ring.frames = _on_host(ring.frames)

    def resume(self, device: torch.device | str) -> None:
        """After `park`: the next slice comes. What is carried between slices comes by itself, when it is asked for."""
        for ring in self._rings():
            ring.frames = ring.frames.to(device, non_blocking=True)

    def _rings(self) -> list[Ring | LeanRing | FilteredPast]:
        return [] if self.rolling is None else [*self.rolling.rings.values(), *self.rolling.pasts.values()]

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Store whatever `keep` says: another part of this slice follows."""
        keep, self.keep = self.keep, True
        yield
        self.keep = keep

    def past(self, owner: nn.Module, x: Tensor, copies: int) -> Tensor:
        """The frames before this slice: [B, C, copies or as many as carried, H, W].

        Args:
            owner: the convolution that asks.
            x: [B, C, T, H, W] its input, of which the first frame is copied at the start of a clip.
            copies: how many copies (kernel - 1).
        """
        carried = self._carried.pop(owner, None)
        if carried is None:
            return x[:, :, :1].expand(-1, -1, copies, -1, -1)
        return carried.to(x.device, non_blocking=True)

    def offer(self, owner: nn.Module, tail: Tensor) -> None:
        """The last frames [B, C, carry, H, W] of the input of `owner`, before the rest of it is ready."""

    def follows_first(self, owner: nn.Module) -> bool:
        """Is the frame that `owner` carried the first one of the clip, alone? It stood for its own past then."""
        return self._remembered[owner] == 1

    def remember(self, owner: nn.Module, extended: Tensor, carry: int) -> None:
        """Keep the last `carry` (kernel - stride) frames of the input together with its past."""
        self._remembered[owner] += 1
        if self.keep and carry > 0:
            frames = extended[:, :, -carry:]
            self._carried[owner] = frames.clone() if self._device is None else frames.to(self._device, copy=True)

    def extend(self, owner: nn.Module, x: Tensor, kernel: int, stride: int) -> Tensor:
        """x with its past in front, which is remembered for the next slice."""
        if kernel == 1:
            return x
        extended = torch.cat([self.past(owner, x, kernel - 1), x], dim=2)
        self.remember(owner, extended, kernel - stride)
        return extended


def _on_host(frames: Tensor) -> Tensor:
    if not frames.is_cuda:
        return frames
    return torch.empty_like(frames, device="cpu", pin_memory=True).copy_(frames, non_blocking=True)
