"""Packs the latents of clips of different sizes into one tensor, and computes means over samples of it.

Letters: B samples · L0 latent positions of all samples · c latent channels.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from models.nadit.exchange import SequenceGroup
from models.nadit.layout import ClipLayout
from models.nadit.model import NaDiT

Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class Shapes:
    """Index tensors of a packed batch, which depend on its latent sizes only; `ShapeCache` keeps them.

    sizes: latent (t, h, w) of every sample.
    sample_of_row: [L0] int64, the sample of each position.
    frame_of_row: [L0] int64, the latent frame of each position within its sample.
    row_share: [L0] float32, 1 / (B * positions of the sample). The sum is one, and every clip has the same weight.
    size_table: [B, 3] float64, the sizes as a tensor on the device.
    """

    sizes: tuple[Size3, ...]
    sample_of_row: Tensor
    frame_of_row: Tensor
    row_share: Tensor
    size_table: Tensor

    @staticmethod
    def of(sizes: Sequence[Sequence[int]], device: torch.device | str) -> "Shapes":
        counts = torch.tensor([prod(size) for size in sizes])
        sample = torch.repeat_interleave(torch.arange(len(sizes)), counts)
        frame = torch.cat([torch.arange(t).repeat_interleave(h * w) for t, h, w in sizes])
        share = (1.0 / (len(sizes) * counts.double())).float()[sample]
        table = torch.tensor(sizes, dtype=torch.float64)
        return Shapes(tuple((t, h, w) for t, h, w in sizes), *(x.to(device) for x in (sample, frame, share, table)))

    @property
    def counts(self) -> list[int]:
        """The number of positions of every sample."""
        return [prod(size) for size in self.sizes]

    def per_row(self, of_sample: Tensor) -> Tensor:
        """Repeat one value per sample [B, ...] for each of its positions [L0, ...]."""
        return of_sample.index_select(0, self.sample_of_row)

    def mean(self, of_row: Tensor) -> Tensor:
        """The mean over the positions and channels of each clip, and then over clips: [L0, c] -> scalar float32."""
        return (of_row.float().mean(1) * self.row_share).sum()

    def sample_means(self, of_row: Tensor) -> Tensor:
        """The mean over the positions and channels of each clip: [L0, c] -> [B] float32."""
        rows = of_row.float().mean(1) * self.row_share * len(self.sizes)
        return rows.new_zeros(len(self.sizes)).index_add(0, self.sample_of_row, rows)


class ShapeCache:
    """An LRU cache of `Shapes` and transformer layouts; the key is the combination of sizes in a batch.

    Building one takes milliseconds of Python, and a run on small clips has only a few different combinations.

    Args:
        sequence_group: the ranks that share the windows of every batch; None: each rank computes its batch alone.
    """

    def __init__(
        self, device: torch.device | str, capacity: int = 64, sequence_group: SequenceGroup | None = None
    ) -> None:
        self.device, self.capacity, self.sequence_group = device, capacity, sequence_group
        self._kept: OrderedDict[tuple[Hashable, ...], Shapes | ClipLayout] = OrderedDict()

    def shapes(self, sizes: Sequence[Size3]) -> Shapes:
        """See `Shapes`."""
        shapes = self._get(("shapes", *sizes), lambda: Shapes.of(sizes, self.device))
        assert isinstance(shapes, Shapes)
        return shapes

    def layout(self, dit: NaDiT, sizes: Sequence[Size3], text_lengths: Sequence[int]) -> ClipLayout:
        """The argument `layout` of `dit.forward`. Networks with equal configs share it."""
        key = (dit.config, tuple(sizes), tuple(text_lengths))
        layout = self._get(key, lambda: dit.layout(sizes, text_lengths, self.device, self.sequence_group))
        assert isinstance(layout, ClipLayout)
        return layout

    def _get(self, key: tuple[Hashable, ...], build: Callable[[], Shapes | ClipLayout]) -> Shapes | ClipLayout:
        if key not in self._kept:
            self._kept[key] = build()
            while len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def size_of(latent: Tensor) -> Size3:
    """(t, h, w) of a latent [c, t, h, w]."""
    _, t, h, w = latent.shape
    return t, h, w


def pack(latents: Sequence[Tensor]) -> tuple[Tensor, list[Size3]]:
    """Pack the latents [c, t, h, w] of all samples: rows [L0, c], and the size (t, h, w) of every sample."""
    rows = [x.permute(1, 2, 3, 0).flatten(0, 2) for x in latents]
    return torch.cat(rows), [size_of(x) for x in latents]


def unpack(rows: Tensor, sizes: Sequence[Size3]) -> list[Tensor]:
    """Undo `pack`: rows [L0, c] -> latents [c, t, h, w] of every sample."""
    rows_of_samples = rows.split([prod(size) for size in sizes])
    return [sample.unflatten(0, size).permute(3, 0, 1, 2) for sample, size in zip(rows_of_samples, sizes, strict=True)]
