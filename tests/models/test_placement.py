"""Sharing windows out: every window once, equal work, few tokens on the way."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from models.nadit.layout import build_layout
from models.nadit.placement import PlacedWindow, balanced_runs, share_windows, window_flops
from models.nadit.windows import cut_windows
from tests.models.test_nadit import DOORS, META

CONFIG = DOORS["v2_small"](**META["dit/v2_small"]["config"]).config
RELEASED = replace(CONFIG, dim=2560, heads=20, head_dim=128, windows=((4, 3, 3),) * 2, shifted=(False, True))
COUNTS = (4, 3, 3)


def partitions_of(grid: tuple[int, int, int]) -> list[list[PlacedWindow]]:
    return [[PlacedWindow(0, span) for span in cut_windows(grid, COUNTS, shifted)] for shifted in (False, True)]


@pytest.mark.parametrize("shares", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(("grid", "uneven"), [((25, 45, 80), 1.06), ((100, 45, 80), 1.03), ((7, 68, 120), 1.06)])
def test_clips_are_shared_evenly(grid, uneven, shares):
    partitions = partitions_of(grid)
    for windows, owners in zip(partitions, share_windows(RELEASED, partitions, [58], shares), strict=True):
        loads = Counter()
        for window, owner in zip(windows, owners, strict=True):
            loads[owner] += window_flops(RELEASED, window, 58)
        assert set(loads) == set(range(shares))
        assert max(loads.values()) * shares <= uneven * sum(loads.values())


def test_a_long_clip_is_cut_in_time():
    """Then only the tokens around a few cuts change owner between regular and shifted windows."""
    regular, shifted = (
        torch.tensor([owner for _, owner in sorted(zip([w.span[0] for w in windows], owners, strict=True))])
        for windows, owners in zip(
            partitions_of((100, 45, 80)), share_windows(RELEASED, partitions_of((100, 45, 80)), [58], 4), strict=True
        )
    )
    assert (regular.diff() >= 0).all() and (shifted.diff() >= 0).all()


def test_more_shares_than_windows_leave_some_empty():
    owners = share_windows(RELEASED, partitions_of((1, 2, 2)), [58], 8)
    assert all(owner in range(8) for of_partition in owners for owner in of_partition)
    assert balanced_runs([1, 1], 5) == [0, 1]


def test_runs_are_the_best_there_are():
    work = [3, 1, 4, 1, 5, 9, 2, 6]
    for shares in range(1, 9):
        owners = balanced_runs(work, shares)
        assert owners == sorted(owners)
        largest = max(sum(w for w, o in zip(work, owners, strict=True) if o == run) for run in set(owners))
        assert largest == best_limit(work, shares)


def best_limit(work: list[int], shares: int) -> int:
    if shares == 1 or len(work) == 1:
        return sum(work)
    return min(max(sum(work[:i]), best_limit(work[i:], shares - 1)) for i in range(1, len(work)))


def test_shares_make_up_the_whole():
    """Each share's layout holds its own windows; together they are the layout of one who is alone."""

    class SequenceGroup:
        def __init__(self, size: int, rank: int) -> None:
            self.size, self.rank, self.owners = size, rank, None

        def exchange(self, owners, device):
            self.owners = owners

    shapes, lengths = [(5, 8, 12), (1, 6, 6)], [4, 3]
    whole = build_layout(CONFIG, shapes, lengths)
    parts = [build_layout(CONFIG, shapes, lengths, sequence_group=SequenceGroup(3, own)) for own in range(3)]
    for partition, block in enumerate(whole.blocks[:2]):
        assert sum(len(part.blocks[partition].video_rows) for part in parts) == len(block.video_rows)
        sequences = [Counter(), Counter()]
        for count, length in block.sequences.groups:
            sequences[0][length] += count
        for part in parts:
            for count, length in part.blocks[partition].sequences.groups:
                sequences[1][length] += count
        assert sequences[0] == sequences[1]
