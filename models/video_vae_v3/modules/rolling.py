"""Convolutions in time without copies of carried frames: one new frame at a time, and nothing moves.

A causal convolution of three taps needs the last three frames of its input. They have three places that stay where they
are, side by side in the channels of every pixel: a new frame is written over the oldest one, and a 2-D convolution of
all three with the weights in the order of the places gives the next output frame. Three orders come by turns.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

PLACES = 3


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

    def turn(self) -> int:
        """The next frame is in its place; returns the number of that place, and the one after it is free from now."""
        newest = self._next
        self._next = (newest + 1) % PLACES
        return newest


@dataclass
class Rolling:
    """That the frames of one clip roll through one network, and where they are.

    smallest: pixels of a frame from which on; below, launching three times as many kernels costs more than it saves.
    rings: of the layers that have seen the clip's first frame.
    sums: what the last convolution's past adds to its next two frames, where it is summed from projections.
    """

    smallest: int = 128 * 128
    rings: dict[nn.Module, Ring] = field(default_factory=dict)
    sums: dict[nn.Module, Tensor] = field(default_factory=dict)


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
