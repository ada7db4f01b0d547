"""Communication between the ranks of a group; counts the bytes sent.

gloo sends from host memory only, so tensors on a GPU are copied there first; NCCL sends them directly. These operations
have no gradients; `adjoint.py` has the same operations with gradients.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from common.distributed.process import Process

# The same operation; PyTorch renamed it after 2.11.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass
class Traffic:
    """Counts the bytes that this rank has sent, by purpose."""

    sent: dict[str, int] = field(default_factory=dict)

    def add(self, purpose: str, bytes_sent: int) -> None:
        self.sent[purpose] = self.sent.get(purpose, 0) + bytes_sent

    @property
    def total(self) -> int:
        return sum(self.sent.values())


class Group:
    """The ranks that work on one clip, in order. `rank` is the number of this rank in the group, from 0.

    Args:
        ranks: the numbers of the ranks in the job, including this one.
        handle: the process group of torch.distributed for these ranks; None for a group of one.
    """

    def __init__(self, process: Process, ranks: Sequence[int], handle: dist.ProcessGroup | None) -> None:
        self.process, self.ranks, self.handle = process, tuple(ranks), handle
        self.size, self.rank = len(self.ranks), self.ranks.index(process.rank)
        self.traffic = Traffic()

    @property
    def is_leader(self) -> bool:
        """Whether this rank is the group's first one, which writes files for the group."""
        return self.rank == 0

    def exchange(
        self, rows: Tensor, send: Sequence[int], receive: Sequence[int], purpose: str, counted: bool = True
    ) -> Tensor:
        """All-to-all: send[i] rows, in order, to rank i. Returns the received rows in the order of the ranks.

        Args:
            counted: count the bytes; False if the caller counts what it has packed into the rows.
        """
        _refuse_gradients(rows)
        whole: dict[str, Any] = dict(output_split_sizes=list(receive), input_split_sizes=list(send), group=self.handle)
        rows = rows.contiguous()
        arrived = rows.new_empty(sum(receive), *rows.shape[1:])
        if counted:
            self._count(purpose, rows, len(rows) - send[self.rank])
        with self.waiting(purpose):
            if self._through_host(rows):
                on_host = arrived.cpu()
                dist.all_to_all_single(on_host, rows.cpu(), **whole)
                return on_host.to(rows.device)
            dist.all_to_all_single(arrived, rows, **whole)
        return arrived

    def total(self, tensor: Tensor, purpose: str) -> Tensor:
        """All-reduce: the sum over the group, bit for bit the same on every rank."""
        _refuse_gradients(tensor)
        result = self.on_wire(tensor)
        result = result.clone(memory_format=torch.contiguous_format)
        self._count(purpose, tensor.flatten(), 2 * tensor.numel() * (self.size - 1) // self.size)
        with self.waiting(purpose):
            dist.all_reduce(result, group=self.handle)
        return result.to(tensor.device)

    def gather_rows(self, rows: Tensor, counts: Sequence[int], purpose: str) -> Tensor:
        """All-gather: concatenate counts[i] rows of each rank i, on every rank."""
        _refuse_gradients(rows)
        longest = max(counts)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        self._count(purpose, rows, len(rows) * (self.size - 1))
        if self._through_host(rows):
            padded = padded.cpu()
        everything = padded.new_empty(self.size * longest, *rows.shape[1:])
        with self.waiting(purpose):
            all_gather(everything, padded, group=self.handle)
        gathered = everything.unflatten(0, (self.size, longest))
        return torch.cat([block[:count] for block, count in zip(gathered, counts, strict=True)]).to(rows.device)

    def broadcast(self, tensor: Tensor, source: int, purpose: str) -> Tensor:
        """Broadcast the tensor of rank `source` of the group; other ranks pass a tensor of its shape and dtype."""
        result = self.on_wire(tensor.contiguous())
        if source == self.rank:
            self.traffic.add(purpose, (self.size - 1) * result.numel() * result.element_size())
        with self.waiting(purpose):
            dist.broadcast(result, group=self.handle, group_src=source)
        return result.to(tensor.device)

    def transfer(
        self,
        *,
        send: Sequence[tuple[Tensor, int]] = (),
        receive: Sequence[tuple[Tensor, int]] = (),
        purpose: str,
        counted: bool = True,
    ) -> None:
        """Send tensors to ranks of the group, and receive tensors from them. Blocks until all are done.

        Args:
            counted: as in `exchange`.
        """
        outgoing = [(self.on_wire(tensor.contiguous()), other) for tensor, other in send]
        incoming = [(self.on_wire(tensor), other) for tensor, other in receive]
        operations = [self._operation(dist.isend, *pair) for pair in outgoing]
        operations += [self._operation(dist.irecv, *pair) for pair in incoming]
        if counted:
            self.traffic.add(purpose, sum(tensor.numel() * tensor.element_size() for tensor, _ in outgoing))
        with self.waiting(purpose):
            for request in dist.batch_isend_irecv(operations) if operations else ():
                request.wait()
        for (tensor, _), (arrived, _) in zip(receive, incoming, strict=True):
            if arrived is not tensor:
                tensor.copy_(arrived)

    def _operation(self, kind: Callable[..., Any], tensor: Tensor, other: int) -> dist.P2POp:
        """A send (`dist.isend`) to, or a receive from, a rank of this group; for `dist.batch_isend_irecv`."""
        return dist.P2POp(kind, tensor, group=self.handle, group_peer=other)

    def on_wire(self, tensor: Tensor) -> Tensor:
        """Copy the tensor to memory from which the backend can send, if it is not there."""
        return tensor.cpu() if self._through_host(tensor) else tensor

    def _through_host(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cuda" and self.process.backend == "gloo"

    def _count(self, purpose: str, rows: Tensor, sent: int) -> None:
        self.traffic.add(purpose, sent * (rows[0].numel() if len(rows) else 0) * rows.element_size())

    def waiting(self, purpose: str) -> AbstractContextManager[None]:
        """A context around a call that waits for other ranks; with NCCL the call is only queued on the device."""
        if self.process.backend == "nccl":
            return nullcontext()
        return self.process.waiting(f"the others of its group ({purpose})")


def _refuse_gradients(tensor: Tensor) -> None:
    """Raise RuntimeError for a tensor that requires a gradient, which would be lost silently."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("this verb has no gradient: use common.distributed.adjoint, or torch.inference_mode()")


def make_group(process: Process, size: int) -> Group:
    """Divide all ranks into groups of `size` consecutive ranks. Returns this rank's group. Every rank must call it.

    Raises:
        ValueError: `size` does not divide the number of ranks.
    """
    process.check_divides(size)
    joined = None
    for first in range(0, process.world, size):
        ranks = range(first, first + size)
        handle = dist.new_group(list(ranks)) if size > 1 else None
        if process.rank in ranks:
            joined = Group(process, ranks, handle)
    assert joined is not None, "every rank is in one group"
    return joined
