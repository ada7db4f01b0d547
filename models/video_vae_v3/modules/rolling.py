"""Convolutions in time without copies of carried frames: one new frame at a time, and nothing moves.

A causal convolution of three taps needs the last three frames of its input. They have three places that stay where they
are, side by side in the channels of every pixel: a new frame is written over the oldest one, and a 2-D convolution of
all three with the weights in the order of the places gives the next output frame. Three orders come by turns.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

import torch
from torch import Tensor, nn

from models.video_vae_v3.modules.fours import FilteredPast
from models.video_vae_v3.modules.strips import MOST_ELEMENTS, in_strips, strips

PLACES = 3
BANDS = 8  # at least, of a picture that `LeanRing` convolves
ROLLS = ("off", "full", "large", "all")  # which pictures roll: none, those of full size, those of `LARGE` pixels, all
AUTOMATIC = "large"  # on CUDA, without a bound on memory
LARGE = 128 * 128  # below, launching three times as many kernels costs more than it saves


class Ring:
    """The last three frames of what a layer reads.

    Args:
        first: [B, H, W, C] the clip's first frame, which is its own past.
    Attributes:
        frames: [B, H, W, 3, C].
    """

    def __init__(self, first: Tensor) -> None:
        self.frames = first.new_empty(*first.shape[:3], PLACES, first.shape[3])
        self.frames[:, :, :, :2] = first[:, :, :, None]
        self._next = PLACES - 1

    @property
    def free(self) -> Tensor:
        """[B, H, W, C] where the next frame goes: the oldest one's place."""
        return self.frames[:, :, :, self._next]

    def convolve(self, run: Callable[[Tensor, int], Tensor], channels: int, up: int = 1) -> Tensor:
        """The next frame is in its place: run([B, 1, rows, W, 3C], its place) -> [B, 1, up * H, up * W, channels].

        The place after it is free from now.
        """
        newest = self._next
        self._next = (newest + 1) % PLACES
        x = self.frames.flatten(3)[:, None]
        batch, _, height, width, _ = x.shape
        return in_strips(lambda rows: run(rows, newest), x, (batch, 1, up * height, up * width, channels), up)


class LeanRing:
    """The same with two frames instead of three: the new one comes beside them, and a convolution gathers its input.

    It does so in bands of rows. A third less memory for eight more passes over a frame.

    Attributes:
        frames: [B, 2, H, W, C].
    """

    def __init__(self, first: Tensor) -> None:
        self.frames = first[:, None].repeat(1, 2, 1, 1, 1)
        self._oldest = 0
        self._new: Tensor | None = None

    @property
    def free(self) -> Tensor:
        """[B, H, W, C] where the next frame goes."""
        if self._new is None:
            self._new = torch.empty_like(self.frames[:, 0])
        return self._new

    def convolve(self, run: Callable[[Tensor, int], Tensor], channels: int, up: int = 1) -> Tensor:
        """As that of `Ring`."""
        oldest, new = self._oldest, self._new
        order = self.frames[:, oldest], self.frames[:, 1 - oldest], new
        batch, height, width, _ = new.shape
        out = new.new_empty(batch, 1, up * height, up * width, channels)
        count = max(BANDS, ceil(1.25 * max(PLACES * new.numel(), out.numel()) / MOST_ELEMENTS))

        def take(first: int, stop: int) -> Tensor:
            return torch.stack([frame[:, first:stop] for frame in order], 3).flatten(3)[:, None]

        strips(lambda rows: run(rows, PLACES - 1), take, height, count, out, up)
        order[0].copy_(new)
        self._oldest, self._new = 1 - oldest, None
        return out


@dataclass
class Rolling:
    """That a clip's frames go through the large levels of one network one by one or by fours, and where they are.

    smallest: pixels of a frame from which on, see `smallest_rolled`.
    lean: rings keep two frames, see `LeanRing`.
    fours: four frames at a time by minimal filtering, see `fours.py`, instead of one.
    rings, pasts: of the layers that have seen the clip's first frame.
    sums: what the last convolution's past adds to its next two frames, where it is summed from projections.
    """

    smallest: int
    lean: bool = False
    fours: bool = False
    rings: dict[nn.Module, Ring | LeanRing] = field(default_factory=dict)
    pasts: dict[nn.Module, FilteredPast] = field(default_factory=dict)
    sums: dict[nn.Module, Tensor] = field(default_factory=dict)

    def begin(self, layer: nn.Module, first: Tensor) -> None:
        """A ring for a layer that has seen the clip's first frame, [B, H, W, C]."""
        self.rings[layer] = (LeanRing if self.lean else Ring)(first)


def smallest_rolled(rolls: str, pixels: int) -> int:
    """From how many pixels on frames roll, by one of `ROLLS` (not "off"); `pixels`: of the clip's pictures."""
    return {"full": pixels, "large": LARGE, "all": 0}[rolls]


def taps_of_places(newest: int) -> list[int]:
    """The time tap (0 the oldest frame's, 2 the newest one's) that each place meets."""
    return [(place - newest - 1) % PLACES for place in range(PLACES)]


def prepare_turns(conv: nn.Module) -> None:
    """Give a convolution [O, C, 3, 3, 3] its weights for the three turns, [O, 3C, 3, 3] each."""
    for newest in range(PLACES):
        weight = torch.cat([conv.weight.data[:, :, tap] for tap in taps_of_places(newest)], dim=1)
        _store(conv, newest, weight)


def prepare_upsample_turns(up: nn.Module) -> None:
    """The same for a folded upsampler that leaves time alone, [C, O, 3, 4, 4]: [3C, O, 4, 4] each.

    In a transposed convolution the newest frame meets the first tap.
    """
    for newest in range(PLACES):
        weight = torch.cat([up.derived_folded[:, :, 2 - tap] for tap in taps_of_places(newest)], dim=0)
        _store(up, newest, weight)


def has_turns(module: nn.Module) -> bool:
    return "derived_turn0" in module._buffers


def turned_weight(module: nn.Module, newest: int) -> Tensor:
    """The weights for the turn whose new frame is in place `newest`."""
    return module._buffers[f"derived_turn{newest}"]


def _store(module: nn.Module, turn: int, weight: Tensor) -> None:
    weight = weight.contiguous(memory_format=torch.channels_last)
    module.register_buffer(f"derived_turn{turn}", weight, persistent=False)
