"""3-D convolution that never looks ahead in time."""

from torch import Tensor, nn
from torch.nn import functional as F

from common.kernels.conv3d import conv3d
from models.video_vae_v3.modules.temporal_memory import TemporalMemory


class CausalConv3d(nn.Conv3d):
    """Zero padding in height and width; in time the frames before the first are copies of it.

    Args:
        pad_end: pad height and width by one row and column at the end only (how the encoder halves them).
    """

    bias: nn.Parameter
    padding: tuple[int, int, int]
    derived_first: Tensor  # [O, C, h, w], see `fold.prepare_conv`; only where the inference path is prepared

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
        """x: [B, C, T, H, W], the next frames of the clip that `memory` belongs to."""
        x = memory.extend(self, x, self.kernel_size[0], self.stride[0])
        if self.pad_end:
            x = F.pad(x, (0, 1, 0, 1))
        return conv3d(x, self.weight, self.bias, self.stride, self.padding)
