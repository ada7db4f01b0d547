"""Assigns attention windows to ranks: ranks have equal work, and few tokens move between blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, permutations, product
from math import prod

import torch
from torch import Tensor

from models.nadit.config import NaDiTConfig, Size3
from models.nadit.windows import Window

# Operations that a rank computes in the time in which it sends one byte (fast links within a machine, large matrices).
# This ratio weighs equal work against fewer moved tokens.
FLOPS_PER_BYTE = 2000
BYTES_PER_NUMBER = 2  # hidden states are sent in 16 bits


@dataclass(frozen=True)
class PlacedWindow:
    """A window of one sample: its span in the sample's grid."""

    sample: int
    span: Window

    @property
    def size(self) -> Size3:
        t0, t1, h0, h1, w0, w1 = self.span
        return t1 - t0, h1 - h0, w1 - w0


def share_windows(
    config: NaDiTConfig, partitions: Sequence[Sequence[PlacedWindow]], text_lengths: Sequence[int], shares: int
) -> list[list[int]]:
    """Assign a rank (0 .. shares - 1) to each window of every partition. The result is the same on every rank.

    For an order of the three axes, windows are sorted along them, and the list is cut into runs of nearly equal work.
    Of all orders the fastest is chosen, by the work of the slowest rank and the tokens that move.
    """
    if shares == 1:
        return [[0] * len(windows) for windows in partitions]
    options = []
    for windows in partitions:
        work = [window_flops(config, window, text_lengths[window.sample]) for window in windows]
        options.append(_options(windows, work, shares))
    return [owners for _, owners in _best_combination(config, partitions, options, shares)]


def window_flops(config: NaDiTConfig, window: PlacedWindow, text_length: int) -> int:
    """Operations of one block for one window: the linear layers of its tokens, and attention with the text."""
    tokens = prod(window.size)
    inner = config.heads * config.head_dim
    wide = config.dim * config.expand_ratio  # SwiGLU has three matrices of two thirds of this width
    matrices = 2 * tokens * config.dim * (4 * inner + 2 * wide)
    return matrices + 4 * (tokens + text_length) ** 2 * inner


Option = tuple[int, list[int]]  # operations of the busiest rank, and the rank of each window


def _options(windows: Sequence[PlacedWindow], work: Sequence[int], shares: int) -> list[Option]:
    """The assignments for each order of the three axes, without duplicates."""
    options = {}
    for axes in permutations(range(3)):
        order = sorted(range(len(windows)), key=lambda i: _position(windows[i], axes))
        owners = [0] * len(windows)
        for i, owner in zip(order, balanced_runs([work[i] for i in order], shares), strict=True):
            owners[i] = owner
        loads = [0] * shares
        for owner, w in zip(owners, work, strict=True):
            loads[owner] += w
        options[tuple(owners)] = (max(loads), owners)
    return list(options.values())


def _position(window: PlacedWindow, axes: Sequence[int]) -> tuple[int, ...]:
    middles = [window.span[2 * axis] + window.span[2 * axis + 1] for axis in axes]
    return window.sample, *middles


def balanced_runs(work: Sequence[int], shares: int) -> list[int]:
    """Cut a list into at most `shares` runs so that the largest sum of a run is minimal. Returns the run of each entry.

    Within this limit the runs are about equal. If there are fewer entries than shares, the last runs are empty.
    """
    low, high = max(work), sum(work)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _runs_within(work, middle) <= shares else (middle + 1, high)
    # Given this limit, end a run when it has its part of the remaining work, if the rest still fits.
    owners, run, load, left = [], 0, 0, sum(work)
    rest_of = list(accumulate(reversed(work), initial=0))[::-1]
    for i, w in enumerate(work):
        fair_share = left / (shares - run)
        full = load + w > low or (load + w / 2 > fair_share and _runs_within(work[i:], low) <= shares - run - 1)
        if load and full and run < shares - 1:
            run, left, load = run + 1, rest_of[i], 0
        owners.append(run)
        load += w
    return owners


def _runs_within(work: Sequence[int], limit: int) -> int:
    runs, load = 1, 0
    for w in work:
        if load + w > limit:
            runs, load = runs + 1, 0
        load += w
    return runs


def _best_combination(
    config: NaDiTConfig, partitions: Sequence[Sequence[PlacedWindow]], options: Sequence[list[Option]], shares: int
) -> tuple[Option, ...]:
    """Choose one option per partition, with the least time for a block of each and for the moves between them."""
    if len(partitions) != 2:  # never so in the released models; there would be too many combinations
        return tuple(min(choices, key=lambda option: option[0]) for choices in options)
    common = _common_tokens(*partitions)

    def time(pair: tuple[Option, ...]) -> float:
        (work_a, owners_a), (work_b, owners_b) = pair
        differ = torch.tensor(owners_a)[:, None] != torch.tensor(owners_b)
        bytes_moved = int(common[differ].sum()) * config.dim * BYTES_PER_NUMBER
        return work_a + work_b + 2 * FLOPS_PER_BYTE * bytes_moved / shares

    return min(product(*options), key=time)


def _common_tokens(a: Sequence[PlacedWindow], b: Sequence[PlacedWindow]) -> Tensor:
    """The number of tokens in common: [windows of a, windows of b]."""
    spans_a, spans_b = (torch.tensor([w.span for w in windows]).view(-1, 3, 2) for windows in (a, b))
    starts = torch.maximum(spans_a[:, None, :, 0], spans_b[None, :, :, 0])
    stops = torch.minimum(spans_a[:, None, :, 1], spans_b[None, :, :, 1])
    samples_a, samples_b = (torch.tensor([w.sample for w in windows]) for windows in (a, b))
    return (stops - starts).clamp(min=0).prod(-1) * (samples_a[:, None] == samples_b)
