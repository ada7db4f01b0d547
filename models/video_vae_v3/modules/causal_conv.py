"""3-D convolution that is causal in time: an output frame depends on no later input frame."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.kernels.conv3d import conv3d
from models.video_vae_v3.modules.rows import RowExchange
from models.video_vae_v3.modules.temporal_memory import TemporalMemory


class CausalConv3d(nn.Conv3d):
    """A 3-D convolution with zero padding in height and width. In time, copies of the first frame are its past.

    Args:
        pad_end: pad height and width by one row and one column at the end only, as the encoder's `Downsample` does.
    """

    bias: nn.Parameter
    padding: tuple[int, int, int]
    derived_first: Tensor  # [O, C, h, w], see `fold.prepare_conv`; exists if the inference path is prepared

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
        pad_end: bool = False,
    ) -> None:
        space = (0, 0) if pad_end else (kernel[1] // 2, kernel[2] // 2)
        super().__init__(channels_in, channels_out, kernel, stride, padding=(0, *space))
        self.pad_end = pad_end

    def forward(self, x: Tensor, memory: TemporalMemory) -> Tensor:  # type: ignore[override]  # one argument more
        """Convolve x [B, C, T, H, W], the next frames of the clip that `memory` belongs to."""
        x = memory.extend(self, x, self.kernel_size[0], self.stride[0])
        padding = self.padding
        if memory.rows.shared and self.kernel_size[1] > 1:
            x = between_neighbours(x, memory.rows, above=not self.pad_end)
            x, padding = F.pad(x, (0, int(self.pad_end))), (0, 0, self.padding[2])
        elif self.pad_end:
            x = F.pad(x, (0, 1, 0, 1))
        return conv3d(x, self.weight, self.bias, self.stride, padding)


def between_neighbours(x: Tensor, rows: RowExchange, above: bool) -> Tensor:
    """Add halo rows to a row block x [B, C, T, H, W]: zeros at the picture's edge, else the neighbours' rows.

    Args:
        above: add a row above too; a row below is always added.
    Returns:
        [B, C, T, H + 2, W], or H + 1 rows without `above`.
    """
    packed = torch.cat([x[:, :, :, :1], x[:, :, :, -1:]], dim=3).permute(0, 2, 3, 4, 1).contiguous()  # B T 2 W C
    found = rows.neighbours(packed, above=above)
    upper, lower = (
        torch.zeros_like(x[:, :, :, :1]) if row is None else row.permute(0, 4, 1, 2, 3) for row in found
    )  # B C T 1 W
    return torch.cat([upper, x, lower] if above else [x, lower], dim=3)
