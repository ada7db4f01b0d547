"""The input of a causal convolution in inference: new frames behind carried ones, with the rows around them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.kernels.winograd import transform_dtype
from common.kernels.winograd_matrices import CARRIED, INPUT_SCALE
from models.video_vae_v3.modules.temporal_memory import ClipMemory


@dataclass
class ConvInput:
    """A buffer that a norm, or the layer before, writes `new` of; `complete` does the rest.

    buffer: [B, past + T, above + H + below, W + right, C]. past: carried frames in front.
    above, below: halo rows, from the neighbouring blocks of the picture or zeros at its edge; none where one process
        has the whole picture and the convolution pads it. A convolution that halves the picture always has one below.
    right: a column of zeros.
    """

    buffer: Tensor
    past: int
    above: int
    below: int
    right: int

    @property
    def new(self) -> Tensor:
        """[B, T, H, W, C], the new frames' own rows."""
        height, width = self.buffer.shape[2] - self.below, self.buffer.shape[3] - self.right
        return self.buffer[:, self.past :, self.above : height, :width]

    @property
    def halo(self) -> tuple[int, int]:
        return self.above, self.below


def conv_input(memory: ClipMemory, conv: nn.Conv3d, shape: Sequence[int], pad_end: bool = False) -> ConvInput:
    """An empty input of a convolution for the frames of a group; see `input_like`.

    Args:
        pad_end: the convolution halves the picture: one row below and one column to the right, nothing above.
    """
    return input_like(memory, conv.weight, shape, conv.in_channels, conv.kernel_size[0] - conv.stride[0], pad_end)


def input_like(
    memory: ClipMemory, weight: Tensor, shape: Sequence[int], channels: int, carry: int, pad_end: bool = False
) -> ConvInput:
    """An empty input with the dtype and on the device of `weight`.

    Args:
        shape: of the group, (B, T, H, W, any).
        carry: frames that the convolution reads before the new ones; the clip's first frame stands for its own past.
    """
    batch, frames, height, width, _ = shape
    past = 0 if memory.starts_clip else carry
    above, below = int(memory.rows.shared and not pad_end), int(memory.rows.shared or pad_end)
    size = batch, past + frames, above + height + below, width + pad_end, channels
    return ConvInput(weight.new_empty(size), past, above, below, int(pad_end))


def complete(memory: ClipMemory, owner: nn.Module, given: ConvInput, carry: int, winograd: bool = False) -> Tensor:
    """Fill in everything but `given.new`, and remember the last `carry` frames for the next group; the whole buffer.

    Args:
        owner: the convolution whose frames these are.
        winograd: the frames are carried as Winograd's input transform takes them.
    """
    buffer, past = given.buffer, given.past
    frames, width = buffer[:, past:], buffer.shape[3] - given.right
    if memory.rows.shared:
        rows = memory.rows.neighbours(given.new, bool(given.above), bool(given.below))
    else:
        rows = None, None
    for place, row, wanted in ((0, rows[0], given.above), (-1, rows[1], given.below)):
        if wanted:
            target = frames[:, :, place, :width]
            target.zero_() if row is None else target.copy_(row[:, :, 0])
    if given.right:
        frames[:, :, :, -1] = 0
    carried = memory.take(owner, buffer.device) if past else None
    if carried is not None:
        buffer[:, :past] = carried.div(INPUT_SCALE) if winograd else carried
    if carry and memory.keep:
        last = buffer[:, -carry:] if past else buffer[:, :1].expand(-1, carry, -1, -1, -1)
        memory.put(owner, _as_carried(last, winograd, carried))
    return buffer


def _as_carried(frames: Tensor, winograd: bool, place: Tensor | None) -> Tensor:
    """The frames in the form in which they are carried, in `place` where there is one."""
    if place is None:
        dtype = transform_dtype(frames.dtype) if winograd else frames.dtype
        place = torch.empty(frames.shape, dtype=dtype, device=frames.device)
    assert not winograd or frames.shape[1] == CARRIED, "Winograd's transform reads two frames before the new ones"
    return place.copy_(frames.mul(INPUT_SCALE) if winograd else frames)
