"""The blocks of the encoder and the decoder. All activations are [B, C, T, H, W]."""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from common.kernels.group_norm import frame_group_norm
from models.module_list import module_list
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.rows import RowExchange
from models.video_vae_v3.modules.temporal_memory import TemporalMemory

NORM_EPS = 1e-6


class FrameNorm(nn.GroupNorm):
    """GroupNorm over each frame separately, optionally followed by SiLU."""

    def __init__(self, channels: int, groups: int, silu: bool) -> None:
        super().__init__(groups, channels, eps=NORM_EPS)
        self.silu = silu

    def forward(self, x: Tensor, rows: RowExchange) -> Tensor:  # type: ignore[override]  # one argument more
        """Normalise x [B, C, T, H, W]; `rows` is the exchange with the ranks that hold other rows of its frames."""
        gather = rows.gather if rows.shared else None
        return frame_group_norm(x, self.weight, self.bias, self.num_groups, self.eps, self.silu, gather)


class ResnetBlock(nn.Module):
    """Norm, SiLU and convolution, twice, plus the input, which a 1x1x1 convolution maps if the channels change."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(channels_in, groups, silu=True)
        self.conv1 = CausalConv3d(channels_in, channels_out)
        self.norm2 = FrameNorm(channels_out, groups, silu=True)
        self.conv2 = CausalConv3d(channels_out, channels_out)
        self.conv_shortcut = CausalConv3d(channels_in, channels_out, (1, 1, 1)) if channels_in != channels_out else None

    def forward(self, x: Tensor, memory: TemporalMemory) -> Tensor:
        h = self.conv1(self.norm1(x, memory.rows), memory)
        h = self.conv2(self.norm2(h, memory.rows), memory)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x, memory))


class FrameAttention(nn.Module):
    """Attention over the pixels of each frame with one head as wide as the channels, plus the input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = FrameNorm(channels, groups, silu=False)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = module_list([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, rows: RowExchange) -> Tensor:
        """Every pixel of x [B, C, T, H, W] attends to all pixels of its frame, through `rows` also on other ranks."""
        batch, _, _, height, _ = x.shape
        pixels = rearrange(self.group_norm(x, rows), "b c t h w -> (b t) (h w) c")
        keys, values = rows.gather_pixels(self.to_k(pixels)), rows.gather_pixels(self.to_v(pixels))
        queries = self.to_q(pixels)[:, None]  # one head
        out = F.scaled_dot_product_attention(queries, keys[:, None], values[:, None])[:, 0]
        return x + rearrange(self.to_out[0](out), "(b t) (h w) c -> b c t h w", b=batch, h=height)


class MidBlock(nn.Module):
    """A resnet block, attention and another resnet block."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = module_list([FrameAttention(channels, groups)])
        self.resnets = module_list([ResnetBlock(channels, channels, groups) for _ in range(2)])

    def forward(self, x: Tensor, memory: TemporalMemory) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, memory), memory.rows)
        return self.resnets[1](x, memory)


class Downsample(nn.Module):
    """Halves height and width, and time if `temporal`, by a strided convolution."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        kernel, stride = ((3, 3, 3), (2, 2, 2)) if temporal else ((1, 3, 3), (1, 2, 2))
        self.conv = CausalConv3d(channels, channels, kernel, stride, pad_end=True)

    def forward(self, x: Tensor, memory: TemporalMemory) -> Tensor:
        return self.conv(x, memory)


class Upsample(nn.Module):
    """Doubles height and width, and time if `temporal`: a 1x1x1 convolution, a pixel shuffle, a 3x3x3 convolution.

    If time doubles, the first frame of a clip yields one frame instead of two, so 1 + n frames become 1 + 2n.
    """

    # Buffers of `fold.fold_upsample`: they exist if the inference path is prepared, those with `after` if time doubles.
    derived_folded: Tensor
    derived_after: Tensor
    derived_alone: Tensor
    derived_table: Tensor
    derived_table_after: Tensor
    derived_table_alone: Tensor

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.time_factor = 2 if temporal else 1
        self.conv = CausalConv3d(channels, channels)
        self.upscale_conv = nn.Conv3d(channels, channels * 4 * self.time_factor, 1)
        self.reset_upscale()

    def reset_upscale(self) -> None:
        """Initialise the 1x1x1 convolution as nearest-neighbour enlargement: each sub-position copies its pixel."""
        weight, bias = self.upscale_conv.weight, self.upscale_conv.bias
        assert bias is not None
        if not weight.is_meta:
            nn.init.zeros_(bias)
            nn.init.zeros_(weight)
            copies = weight.data.unflatten(0, (4 * self.time_factor, -1))[..., 0, 0, 0]
            copies.diagonal(dim1=1, dim2=2).fill_(1)

    def forward(self, x: Tensor, memory: TemporalMemory) -> Tensor:
        x = self.upscale_conv(x)
        x = rearrange(x, "b (x y z c) t h w -> b c (t z) (h x) (w y)", x=2, y=2, z=self.time_factor)
        if self.time_factor == 2 and memory.starts_clip:
            x = _without_second_frame(x)
        return self.conv(x, memory)


def _without_second_frame(x: Tensor) -> Tensor:
    keep = [index for index in range(x.shape[2]) if index != 1]
    return x[:, :, keep]
