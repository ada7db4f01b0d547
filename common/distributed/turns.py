"""Pieces of a clip worked on by the ranks of a group in turn, the results in the order of the clip."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import TypeVar

import torch
from torch import Tensor

from common.distributed.collectives import Group
from common.distributed.temporal_halo import RingMemory
from common.logger import get_logger

logger = get_logger(__name__)

Piece = TypeVar("Piece")
Tensors = tuple[Tensor, ...]

HEADER_BYTES = 1024  # dtypes and shapes of a piece's results


def slice_frames(ranks: int, split_size: int, factor: int, frames: int | None = None) -> int:
    """How many frames a slice should have, after the clip's first frame, when slices go round so many ranks.

    Every slice costs the same traffic however long it is, and a last round that is not full lets ranks idle.

    Args:
        split_size: what one would take alone. Up to four times as many are taken, and never less than two latents:
            with one, each rank would wait for the frames of the one before in the first layers.
        factor: the VAE's compression of time.
        frames: of the clip, if known.
    """
    if ranks == 1:
        return split_size
    most = max(4 * split_size // factor, 2)
    if frames is None:
        return most // 2 * factor
    latents = max(-(-(frames - 1) // factor), 1)
    # Rounds times the length of a slice is the time it takes; of equal ones the longest sends the least.
    return factor * min(range(2, most + 1), key=lambda n: (-(-latents // (n * ranks)) * n, -n))


def in_turns(
    group: Group,
    pieces: Iterable[Piece],
    work: Callable[[Piece], Tensor | Tensors],
    *,
    memory: RingMemory | None = None,
    length: Callable[[Piece], int] = len,
    skip: Callable[[Piece], None] | None = None,
    everyone: bool = True,
) -> Iterator[Tensor | Tensors]:
    """What `work` makes of each piece, in order. Every rank of the group must ask, with the same pieces, to the end.

    Args:
        pieces: of one clip, in order; every rank runs through all of them.
        work: called for every size-th piece, on one rank each, in order.
        memory: where `work` gets the frames before its piece from.
        length: frames of a piece.
        skip: called for the pieces of other ranks, in order with `work`: what a stream has to be moved on by.
        everyone: yield the results on every rank; False: only on the leader, while others yield nothing.
    """
    stream, single_first = iter(pieces), False
    for turn in count():
        round_ = list(islice(stream, group.size))
        if not round_:
            break
        number = turn * group.size + group.own
        if turn == 0:
            single_first = length(round_[0]) == 1
            _say_who_idles(group, len(round_))
        result = None
        group.process.alive(f"piece {number} of a clip")
        for place, piece in enumerate(round_):
            if place != group.own:
                if skip is not None:
                    skip(piece)
                continue
            if memory is not None:
                memory.begin(number, len(round_), follows_single=number == 1 and single_first)
            result = work(piece)
            if memory is not None:
                memory.end()
        yield from collect(group, result, everyone)
    if memory is not None:
        memory.close()


def _say_who_idles(group: Group, slices: int) -> None:
    """Once a run: images and short clips do not occupy all ranks in the VAE (see docs/decisions/0005)."""
    if slices < group.size and group.leads and not group.idle_said:
        group.idle_said = True
        logger.info(
            "images and short clips have fewer slices of time than the %d ranks that share them: %d waited in the VAE; "
            "a smaller --sp_size restores several files at once",
            group.size,
            group.size - slices,
        )


def collect(group: Group, result: Tensor | Tensors | None, everyone: bool) -> Iterator[Tensor | Tensors]:
    """The results of the first ranks of a group, those that have one, in order.

    Args:
        everyone: on every rank; False: on the leader alone.
    """
    tensors = () if result is None else (result,) if isinstance(result, Tensor) else tuple(result)
    headers = _exchange_headers(group, result, tensors)
    if everyone:
        parts = [
            [
                group.broadcast(tensors[i] if number == group.own else form.empty(group), number, "results")
                for i, form in enumerate(header.forms)
            ]
            for number, header in enumerate(headers)
        ]
    elif group.leads:
        arriving = [[form.empty(group) for form in header.forms] for header in headers[1:]]
        group.transfer(receive=[(tensor, i + 1) for i, row in enumerate(arriving) for tensor in row], purpose="results")
        parts = [tensors, *arriving]
    else:
        group.transfer(send=[(tensor, 0) for tensor in tensors], purpose="results")
        return
    for header, got in zip(headers, parts, strict=True):
        yield got[0] if header.alone else tuple(got)


@dataclass(frozen=True)
class Form:
    """What a tensor looks like, for who receives it."""

    dtype: str
    shape: tuple[int, ...]
    device_type: str

    def empty(self, group: Group) -> Tensor:
        device = torch.device("cpu") if self.device_type == "cpu" else group.process.device
        return torch.empty(self.shape, dtype=getattr(torch, self.dtype), device=device)


@dataclass(frozen=True)
class Header:
    """forms: of the tensors of one piece's result. alone: the result is a tensor and not a tuple of them."""

    forms: tuple[Form, ...]
    alone: bool


def _exchange_headers(group: Group, result: Tensor | Tensors | None, tensors: Tensors) -> list[Header]:
    """The headers of all ranks that have a result."""
    header = torch.zeros(1, HEADER_BYTES, dtype=torch.uint8)
    if result is not None:
        forms = [(str(t.dtype).removeprefix("torch."), list(t.shape), t.device.type) for t in tensors]
        text = json.dumps([isinstance(result, Tensor), forms]).encode()
        if len(text) > HEADER_BYTES:
            raise ValueError(f"a piece of work has {len(tensors)} results, which is more than can be sent at once")
        header[0, : len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    headers = []
    for row in group.gather_rows(header, [1] * group.size, "results"):
        if text := bytes(row.tolist()).rstrip(b"\0"):
            alone, forms = json.loads(text)
            headers.append(Header(tuple(Form(dtype, tuple(shape), kind) for dtype, shape, kind in forms), alone))
    return headers
