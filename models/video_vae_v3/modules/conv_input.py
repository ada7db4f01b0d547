"""The input buffer of a causal convolution in inference: carried frames, new frames and halo rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.kernels.winograd import transform_dtype
from common.kernels.winograd_matrices import CARRIED, INPUT_SCALE
from models.video_vae_v3.modules.temporal_memory import ClipMemory


@dataclass
class ConvInput:
    """An input buffer. A norm or the previous layer writes its part `new`; a norm or `fill_halo` writes the halo rows,
    and `complete` the rest.

    buffer: [B, past + T, above + H + below, W + right, C].
    past: number of carried frames before the new ones.
    above, below: number of halo rows, which come from neighbouring row blocks or are zeros at the picture's edge. Both
        are 0 if one process has the whole picture, which the convolution pads then; a convolution that halves the
        picture always has one below.
    right: number of columns of zeros, 0 or 1.
    """

    buffer: Tensor
    past: int
    above: int
    below: int
    right: int

    @property
    def new(self) -> Tensor:
        """The view of the new frames without halo rows and padding, [B, T, H, W, C]."""
        height, width = self.buffer.shape[2] - self.below, self.buffer.shape[3] - self.right
        return self.buffer[:, self.past :, self.above : height, :width]

    @property
    def halo(self) -> tuple[int, int]:
        return self.above, self.below

    @property
    def halo_rows(self) -> tuple[Tensor | None, Tensor | None]:
        """The views of the new frames' halo rows above and below, [B, T, 1, W, C]; None for a row that is not there."""
        frames = self.buffer[:, self.past :, :, : self.buffer.shape[3] - self.right]
        return frames[:, :, :1] if self.above else None, frames[:, :, -1:] if self.below else None


def conv_input(memory: ClipMemory, conv: nn.Conv3d, shape: Sequence[int], pad_end: bool = False) -> ConvInput:
    """An uninitialised input of a convolution for a group of frames of `shape`, see `input_like`.

    Args:
        pad_end: the convolution halves the picture, so it needs one row below and one column to the right.
    """
    return input_like(memory, conv.weight, shape, conv.in_channels, conv.kernel_size[0] - conv.stride[0], pad_end)


def input_like(
    memory: ClipMemory, weight: Tensor, shape: Sequence[int], channels: int, carry: int, pad_end: bool = False
) -> ConvInput:
    """An uninitialised input with the dtype and device of `weight`.

    Args:
        shape: shape of the group, (B, T, H, W, any).
        channels: number of channels of the input.
        carry: number of frames before the new ones that the convolution reads. The clip's first frame has none, because
            it takes the place of its own past.
        pad_end: see `conv_input`.
    """
    batch, frames, height, width, _ = shape
    past = 0 if memory.starts_clip else carry
    above, below = int(memory.rows.shared and not pad_end), int(memory.rows.shared or pad_end)
    size = batch, past + frames, above + height + below, width + pad_end, channels
    return ConvInput(weight.new_empty(size), past, above, below, int(pad_end))


def fill_halo(memory: ClipMemory, given: ConvInput) -> None:
    """Fill in the halo rows of an input whose part `new` is written: the neighbours' rows, or zeros."""
    rows: tuple[Tensor | None, Tensor | None] = None, None
    if memory.rows.shared:
        rows = memory.rows.neighbours(given.new, bool(given.above), bool(given.below))
    for target, row in zip(given.halo_rows, rows, strict=True):
        if target is not None:
            target.zero_() if row is None else target.copy_(row)


def complete(memory: ClipMemory, owner: nn.Module, given: ConvInput, carry: int, winograd: bool = False) -> Tensor:
    """Fill in carried frames and padding, store the last `carry` frames, and return the whole buffer.

    Args:
        owner: the convolution whose carried frames these are.
        given: the input; its part `new` and its halo rows are written.
        carry: number of frames to store for the next group.
        winograd: frames are stored in the form that Winograd's input transform reads: scaled by `INPUT_SCALE` and in
            `transform_dtype`.
    """
    buffer, past = given.buffer, given.past
    if given.right:
        buffer[:, past:, :, -1] = 0
    carried = memory.take(owner, buffer.device) if past else None
    if carried is not None:
        buffer[:, :past] = carried.div(INPUT_SCALE) if winograd else carried
    if carry and memory.keep:
        last = buffer[:, -carry:] if past else buffer[:, :1].expand(-1, carry, -1, -1, -1)
        memory.put(owner, _as_carried(last, winograd, carried))
    return buffer


def _as_carried(frames: Tensor, winograd: bool, place: Tensor | None) -> Tensor:
    """The frames in the form in which they are stored, written to `place` or, if that is None, to a new tensor."""
    if place is None:
        dtype = transform_dtype(frames.dtype) if winograd else frames.dtype
        place = torch.empty(frames.shape, dtype=dtype, device=frames.device)
    assert not winograd or frames.shape[1] == CARRIED, "Winograd's transform reads two frames before the new ones"
    return place.copy_(frames.mul(INPUT_SCALE) if winograd else frames)
