"""Row parallelism: distributes rows of pictures over the ranks of a group (`models/video_vae_v3/modules/rows.py`).

Every rank holds a block of consecutive rows of every frame. At every level of the VAE it needs one row from each
neighbour before a convolution, the statistics of all blocks for a norm, and all pixels of a frame for attention. These
are some thousandths of an activation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from common.distributed import adjoint
from common.distributed.collectives import Group, all_gather

HALO, STATISTICS, ATTENTION = "rows of neighbours", "statistics of norms", "keys and values"
PAIR = 2
ALIGNMENT = 16  # bytes; Triton compiles another kernel for addresses that are not multiples of it


@dataclass(frozen=True)
class RowBlocks:
    """The latent rows of each rank in a group. If there are more ranks than rows, the last ranks have none."""

    counts: tuple[int, ...]  # number of rows of every rank, which differ by one at most

    @staticmethod
    def of(rows: int, ranks: int) -> "RowBlocks":
        """Divide `rows` evenly among `ranks`."""
        return RowBlocks(tuple(rows // ranks + (rank < rows % ranks) for rank in range(ranks)))

    def span(self, rank: int, scale: int = 1) -> slice:
        """The rows of one rank. `scale` is the number of pixel rows per latent row."""
        start = sum(self.counts[:rank])
        return slice(start * scale, (start + self.counts[rank]) * scale)

    @property
    def active(self) -> int:
        """The number of ranks with rows, which are the first ones."""
        return sum(count > 0 for count in self.counts)


class RowParallel:
    """The `RowExchange` of one rank with rows, for pictures of one size.

    Args:
        group: the ranks that share the clip.
        blocks: their rows; ranks without rows do not take part.
    """

    shared = True

    def __init__(self, group: Group, blocks: RowBlocks) -> None:
        self.group, self.ranks, self.counts = group, blocks.active, blocks.counts[: blocks.active]
        self.first, self.last = group.rank == 0, group.rank == self.ranks - 1

    def neighbours(self, x: Tensor, above: bool = True, below: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """The last row of the block above and the first row of the block below, [B, T, 1, W, C]."""
        if torch.is_grad_enabled():
            return adjoint.neighbours(self, x, above, below)
        return self._exchange(x, x.new_empty(0), above, below)[:2]

    def surroundings(self, x: Tensor, part: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """`neighbours(x)` and `gather(part)` in one exchange, for inference."""
        assert not torch.is_grad_enabled(), "this exchange has no gradient"
        return self._exchange(x, part, True, True)

    def gather(self, part: Tensor) -> Tensor:
        """Stack the tensors [...] of all ranks: [ranks, ...]."""
        if torch.is_grad_enabled():
            return adjoint.gather_blocks(self, part, self.group.rank)
        return self._all_gather(part, STATISTICS)

    def gather_pixels(self, x: Tensor) -> Tensor:
        """Gather the pixels of all ranks: [N, local rows * W, C] -> [N, all rows * W, C]."""
        if torch.is_grad_enabled():
            return self._gathered_with_gradients(x)
        of_row = x.shape[1] // self.counts[self.group.rank]
        longest = max(self.counts) * of_row
        padded = x if x.shape[1] == longest else torch.nn.functional.pad(x, (0, 0, 0, longest - x.shape[1]))
        blocks = self._all_gather(padded, ATTENTION)
        return torch.cat([block[:, : count * of_row] for block, count in zip(blocks, self.counts, strict=True)], 1)

    def _exchange(
        self, x: Tensor, part: Tensor, above: bool, below: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """The requested halo rows of x [B, T, H, W, C], and `part` of all ranks, by one all-to-all of bytes.

        A message holds `part` and then, between neighbours, a row. Both begin at multiples of `ALIGNMENT`.
        """
        if above and below and self.ranks == self.group.size == PAIR:
            return self._exchange_of_two(x, part)
        rank, ranks = self.group.rank, range(self.ranks)
        # For the rows above, every block sends its last row to the block below, and vice versa.
        leaving = {rank + 1: x[:, :, -1:]} if above and not self.last else {}
        leaving |= {rank - 1: x[:, :, :1]} if below and not self.first else {}
        arriving = {rank - 1} if above and not self.first else set()
        arriving |= {rank + 1} if below and not self.last else set()
        row_shape = *x.shape[:2], 1, *x.shape[3:]
        row_bytes, part_bytes = prod(row_shape) * x.element_size(), part.numel() * part.element_size()
        self.group.traffic.add(HALO, row_bytes * len(leaving))
        self.group.traffic.add(STATISTICS, part_bytes * (self.ranks - 1))
        of_part, of_row = (-(-size // ALIGNMENT) * ALIGNMENT for size in (part_bytes, row_bytes))
        send = [of_part * (other != rank) + of_row * (other in leaving) for other in ranks]
        receive = [of_part * (other != rank) + of_row * (other in arriving) for other in ranks]

        out = torch.empty(sum(send), dtype=torch.uint8, device=x.device)
        at = list(accumulate(send, initial=0))  # where the message to each rank begins
        for other in ranks:
            if part_bytes and other != rank:
                _view(out, at[other], part.shape, part.dtype).copy_(part)
            if other in leaving:
                _view(out, at[other] + of_part, row_shape, x.dtype).copy_(leaving[other])
        found, at = self._all_to_all(out, send, receive), list(accumulate(receive, initial=0))
        parts = [part if other == rank else _view(found, at[other], part.shape, part.dtype) for other in ranks]
        first, second = (
            _view(found, at[other] + of_part, row_shape, x.dtype) if other in arriving else None
            for other in (rank - 1, rank + 1)
        )
        return first, second, torch.stack(parts)

    def _exchange_of_two(self, x: Tensor, part: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """The same if there are two blocks: each has one message, so an all-gather spreads both, which is faster."""
        group = self.group
        leaving = x[:, :, -1:] if self.first else x[:, :, :1]
        row_shape, row_bytes, part_bytes = leaving.shape, leaving.nbytes, part.nbytes
        group.traffic.add(HALO, row_bytes)
        group.traffic.add(STATISTICS, part_bytes)
        row_at = -(-part_bytes // ALIGNMENT) * ALIGNMENT
        message = torch.empty(row_at + -(-row_bytes // ALIGNMENT) * ALIGNMENT, dtype=torch.uint8, device=x.device)
        if part_bytes:
            _view(message, 0, part.shape, part.dtype).copy_(part)
        _view(message, row_at, row_shape, x.dtype).copy_(leaving)
        sent = group.on_wire(message)
        found = sent.new_empty(PAIR, len(sent))
        with group.waiting(HALO):
            all_gather(found.view(-1), sent, group=group.handle)
        found = found.to(x.device)
        row = _view(found[1 - group.rank], row_at, row_shape, x.dtype)
        parts = found[:, :part_bytes].view(part.dtype).view(PAIR, *part.shape)
        return (None, row, parts) if self.first else (row, None, parts)

    def _all_to_all(self, out: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """send[i] bytes of `out` go to rank i; returns the received bytes, in the order of the ranks."""
        if self.ranks == self.group.size:
            return self.group.exchange(out, send, receive, HALO, counted=False)
        found = out.new_empty(sum(receive))  # ranks without rows do not call this, so the group's all-to-all would wait
        self.group.transfer(
            send=[(message, to) for to, message in enumerate(out.split(send)) if len(message)],
            receive=[(message, source) for source, message in enumerate(found.split(receive)) if len(message)],
            purpose=HALO,
            counted=False,
        )
        return found

    def _gathered_with_gradients(self, x: Tensor) -> Tensor:
        of_row = x.shape[1] // self.counts[self.group.rank]
        counts = [count * of_row for count in self.counts]
        return adjoint.gather_rows(self.group, x.transpose(0, 1).contiguous(), counts, ATTENTION).transpose(0, 1)

    def _all_gather(self, part: Tensor, purpose: str) -> Tensor:
        group, sent = self.group, self.group.on_wire(part.contiguous())
        everything = sent.new_empty(self.ranks, *sent.shape)
        if self.ranks == group.size:
            group.traffic.add(purpose, (group.size - 1) * sent.numel() * sent.element_size())
            with group.waiting(purpose):
                all_gather(everything.flatten(0, 1), sent, group=group.handle)
            return everything.to(part.device)
        everything[group.rank] = sent
        others = [number for number in range(self.ranks) if number != group.rank]
        send, receive = [(sent, number) for number in others], [(everything[number], number) for number in others]
        group.transfer(send=send, receive=receive, purpose=purpose)
        return everything.to(part.device)


def _view(memory: Tensor, start: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of this shape and dtype in the bytes of `memory` from `start` on."""
    return memory[start : start + prod(shape) * dtype.itemsize].view(dtype).view(shape)


class ClipRows:
    """Distributes the rows of one clip over the ranks of a group in the VAE, and assembles whole frames from them.

    Args:
        group: all ranks that share the clip.
        latent_rows: number of latent rows of the clip.
    Attributes:
        holds_rows: whether this rank has rows.
        exchange: the exchange for the VAE's memory of the clip; None if one rank has all rows.
    """

    def __init__(self, group: Group, latent_rows: int) -> None:
        self.group, self.blocks = group, RowBlocks.of(latent_rows, group.size)
        self.holds_rows = self.blocks.counts[group.rank] > 0
        shared = self.holds_rows and self.blocks.active > 1
        self.exchange = RowParallel(group, self.blocks) if shared else None

    def shard(self, x: Tensor, dim: int, scale: int = 1) -> Tensor:
        """Select this rank's rows of whole pictures along `dim`. `scale` is the number of rows of x per latent row."""
        span = self.blocks.span(self.group.rank, scale)
        return x.narrow(dim, span.start, span.stop - span.start)

    def unshard(self, x: Tensor, scale: int = 1) -> Tensor:
        """Gather all rows on every rank: this rank's rows [t, local rows, ...], possibly none, -> [t, all rows, ...].

        Args:
            scale: number of rows of x per latent row.
        """
        counts = [count * scale for count in self.blocks.counts]
        return adjoint.gather_rows(self.group, x.transpose(0, 1), counts, "latents").transpose(0, 1)

    def frame_span(self, frames: int) -> slice:
        """The frames of a slice that this rank finishes."""
        return RowBlocks.of(frames, self.group.size).span(self.group.rank)

    def to_frames(self, x: Tensor, scale: int) -> Tensor:
        """Assemble whole frames: rows of a slice [3, T, local rows, W] -> the frames of `frame_span` [3, t, H, W].

        Args:
            scale: number of pixel rows per latent row.
        """
        colours, frames, rows, width = x.shape
        shares = RowBlocks.of(frames, self.group.size).counts
        frames_here, heights = shares[self.group.rank], [count * scale for count in self.blocks.counts]
        lines = x.permute(1, 2, 0, 3).reshape(frames * rows, colours, width)
        send, receive = [share * rows for share in shares], [frames_here * height for height in heights]
        parts = self.group.exchange(lines, send, receive, "rows to frames").split(receive)
        blocks = [part.view(frames_here, height, colours, width) for part, height in zip(parts, heights, strict=True)]
        return torch.cat(blocks, 1).permute(2, 0, 1, 3)

    def to_leader(self, x: Tensor, frames: int) -> Tensor | None:
        """Gather the frames [t, ...] of every rank's `frame_span`: [frames, ...] on the leader, None on other ranks."""
        if x.dtype == torch.int16:  # NCCL does not support int16
            whole = self.to_leader(x.view(torch.uint8), frames)
            return None if whole is None else whole.view(torch.int16)
        group, shares = self.group, RowBlocks.of(frames, self.group.size).counts
        if not group.is_leader:
            group.transfer(send=[(x, 0)] if len(x) else [], purpose="finished frames")
            return None
        others = [x.new_empty(share, *x.shape[1:]) for share in shares[1:]]
        receive = [(part, number) for number, part in enumerate(others, 1) if len(part)]
        group.transfer(receive=receive, purpose="finished frames")
        return torch.cat([x, *others])


class UnshardedClip:
    """The same interface for a single process, without communication."""

    exchange, holds_rows = None, True

    def shard(self, x: Tensor, dim: int, scale: int = 1) -> Tensor:
        return x

    def unshard(self, x: Tensor, scale: int = 1) -> Tensor:
        return x

    def frame_span(self, frames: int) -> slice:
        return slice(0, frames)

    def to_frames(self, x: Tensor, scale: int) -> Tensor:
        return x

    def to_leader(self, x: Tensor, frames: int) -> Tensor:
        return x


Rows = ClipRows | UnshardedClip
