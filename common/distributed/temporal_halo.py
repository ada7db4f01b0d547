"""The carried frames of a causal convolution when the slices of a clip go round the ranks of a group.

Slice number n is worked on by rank n % size. All ranks of a round go through the network layer by layer at the same
time, and each hands the last frames of every convolution's input to the one after it: what `TemporalMemory` would have
kept for the next slice. The last rank of a round hands them to the first, which needs them a round later. Nothing is
computed twice and nothing is approximated; norms and attention work on single frames and need nobody.

It answers the same questions as `models.video_vae_v3.modules.temporal_memory.TemporalMemory`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.distributed.collectives import Group

PURPOSE = "frames before a slice"


@dataclass
class Arriving:
    """Frames on their way to this rank: call `frames` once to wait for them, [B, C, carry, H, W]."""

    group: Group
    buffer: Tensor  # B carry H W C
    request: dist.Work | None
    device: torch.device

    def frames(self) -> Tensor:
        with self.group.waiting(PURPOSE):
            self.request.wait()
        return self.buffer.to(self.device).permute(0, 4, 1, 2, 3)


class RingMemory:
    """The memory of one clip on its way through one network, for the slices of this rank.

    Attributes:
        starts_clip: what comes next is the clip's first frame.
        others_wait: another rank waits for this one's frames, see `offer`.
        keep: not used; frames always go on to the next slice, wherever that is.
        rolling: None: what a rank carries comes from another one and cannot stay where it is.
    """

    rolling = None

    def __init__(self, group: Group) -> None:
        self._group = group
        self.starts_clip, self.keep = group.own == 0, True
        self._more_follows = False  # of this slice
        self.others_wait = True
        self._kept: dict[nn.Module, Tensor] = {}  # between the parts of one slice
        self._from_last_round: dict[nn.Module, Arriving] = {}
        self._arriving: dict[nn.Module, Arriving] = {}  # for this slice
        self._sent: set[nn.Module] = set()
        self._seen: dict[nn.Module, int] = {}
        self._outbox: list[tuple[dist.Work, Tensor]] = []
        self._number, self._active, self._follows_single = 0, 1, False

    def begin(self, number: int, active: int, follows_single: bool) -> None:
        """The slice that comes now.

        Args:
            number: of the slice in the clip.
            active: ranks of the group that have a slice in this round; all of them, unless the clip ends.
            follows_single: the slice before was the clip's first frame alone.
        """
        self._number, self._active, self._follows_single = number, active, follows_single
        self._sent, self._seen = set(), {}

    def end(self) -> None:
        """The slice is through the network: wait until its frames are with the next rank."""
        for request, _ in self._outbox:
            request.wait()
        self._outbox.clear()
        assert not self._kept, "the last part of a slice must leave its frames to the next rank"
        assert not self._arriving, "what was offered must also be asked for"

    def close(self) -> None:
        """The clip is through: take what a round that never comes was sent."""
        for arriving in self._from_last_round.values():
            arriving.frames()
        self._from_last_round.clear()

    def advance(self) -> None:
        self.starts_clip = False

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Another part of this slice follows: its frames stay on this rank."""
        before, self._more_follows = self._more_follows, True
        yield
        self._more_follows = before

    def follows_first(self, owner: nn.Module) -> bool:
        """Is the frame that `owner` carried the first one of the clip, and alone?"""
        if self._number == 0:
            return self._seen.get(owner, 0) == 1
        return self._follows_single and owner not in self._seen

    def past(self, owner: nn.Module, x: Tensor, copies: int) -> Tensor:
        """The frames before x [B, C, T, H, W].

        They come from an earlier part of this slice, from the rank before, or are copies at the start of the clip.
        """
        if owner in self._kept:
            return self._kept.pop(owner)
        if self._number == 0 and owner not in self._seen:
            return x[:, :, :1].expand(-1, -1, copies, -1, -1)
        carry = copies + 1 - (owner.stride[0] if isinstance(owner, nn.Conv3d) else 1)
        if owner not in self._sent and x.shape[2] >= carry:
            self.offer(owner, x[:, :, -carry:])
        arriving = self._arriving.pop(owner, None)
        if arriving is None and self._group.own == 0:
            arriving = self._from_last_round.pop(owner)
        if arriving is None:
            arriving = self._send_and_receive(owner, None, x[:, :, :1].expand(-1, -1, carry, -1, -1))
        return arriving.frames()

    def offer(self, owner: nn.Module, tail: Tensor) -> None:
        """The last frames [B, C, carry, H, W] of the input of `owner`, before the rest is ready.

        The next rank waits for them, and nothing from before them is needed: they go at once, and what this rank will
        ask for comes meanwhile. What `remember` is given later is not sent again.
        """
        if self._more_follows:
            return
        if self._group.own > 0:
            first = owner not in self._seen  # later parts of a slice have their past from the part before
            arriving = self._send_and_receive(owner, tail, tail if first else None)
            if first:
                self._arriving[owner] = arriving
            return
        if owner in self._from_last_round:  # before this round's frames take its place
            self._arriving[owner] = self._from_last_round.pop(owner)
        self._send_and_receive(owner, tail, tail if self._all_active else None)

    def remember(self, owner: nn.Module, extended: Tensor, carry: int) -> None:
        """Hand the last `carry` frames to whoever works on what follows."""
        self._seen[owner] = self._seen.get(owner, 0) + 1
        if carry <= 0:
            return
        tail = extended[:, :, -carry:]
        if self._more_follows:
            self._kept[owner] = tail.clone()
        elif owner not in self._sent:
            self._send_and_receive(owner, tail, tail if self._group.own == 0 and self._all_active else None)

    def extend(self, owner: nn.Module, x: Tensor, kernel: int, stride: int) -> Tensor:
        """x with its past in front, which goes to the next rank."""
        if kernel == 1:
            return x
        extended = torch.cat([self.past(owner, x, kernel - 1), x], dim=2)
        self.remember(owner, extended, kernel - stride)
        return extended

    @property
    def _all_active(self) -> bool:
        """May another round follow?"""
        return self._active == self._group.size

    def _send_and_receive(self, owner: nn.Module, tail: Tensor | None, like: Tensor | None) -> Arriving | None:
        """One step of the ring, both directions at once: alone, each might wait for the other for ever."""
        group, operations, arriving = self._group, [], None
        following = group.own + 1 if group.own + 1 < self._active else 0
        sends = tail is not None and (following > 0 or self._all_active)
        if tail is not None:
            self._sent.add(owner)
        if sends:
            sent = group.on_wire(tail.permute(0, 2, 3, 4, 1).contiguous())
            operations.append(group.operation(dist.isend, sent, following))
            group.traffic.add(PURPOSE, sent.numel() * sent.element_size())
        if like is not None:
            batch, channels, carry, height, width = like.shape
            buffer = group.on_wire(like.new_empty(batch, carry, height, width, channels))
            operations.append(group.operation(dist.irecv, buffer, (group.own - 1) % group.size))
            arriving = Arriving(group, buffer, None, like.device)
        if not operations:
            return None
        requests = dist.batch_isend_irecv(operations)
        if arriving is not None:
            arriving.request = requests[-1]  # NCCL: one request for both
            if group.own == 0:
                self._from_last_round[owner] = arriving
        if sends:
            self._outbox.append((requests[0], sent))
        return arriving
