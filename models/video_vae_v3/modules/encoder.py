"""The encoder of the VAE: pixels to the parameters of the posterior."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.module_list import module_list
from models.video_vae_v3.modules.blocks import Downsample, FrameNorm, MidBlock, ResnetBlock
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.temporal_memory import TemporalMemory


class DownEncoderBlock3D(nn.Module):
    """A level of the encoder: resnet blocks, then a `Downsample`, which the last level (`temporal` None) lacks."""

    def __init__(self, channels_in: int, channels_out: int, layers: int, groups: int, temporal: bool | None) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * layers
        self.resnets = module_list([ResnetBlock(widths[i], widths[i + 1], groups) for i in range(layers)])
        downsamplers = [] if temporal is None else [Downsample(channels_out, temporal)]
        self.downsamplers = module_list(downsamplers)

    def forward(self, x: Tensor, memory: TemporalMemory) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x, memory)
        return x


class Encoder3D(nn.Module):
    """[B, in_channels, T, H, W] -> [B, 2 * latent_channels, t, h, w], means first, then log variances.

    Time is halved in the last `temporal_scale_num` of the downsampling levels.
    """

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        block_out_channels: Sequence[int],
        layers_per_block: int,
        groups: int,
        temporal_scale_num: int,
    ) -> None:
        super().__init__()
        widths, halvings = list(block_out_channels), len(block_out_channels) - 1
        self.conv_in = CausalConv3d(in_channels, widths[0])
        blocks = []
        for level, width in enumerate(widths):
            temporal = None if level == halvings else level >= halvings - temporal_scale_num
            before = widths[max(level - 1, 0)]
            blocks.append(DownEncoderBlock3D(before, width, layers_per_block, groups, temporal))
        self.down_blocks = module_list(blocks)
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = FrameNorm(widths[-1], groups, silu=True)
        self.conv_out = CausalConv3d(widths[-1], 2 * latent_channels)

    def forward(self, x: Tensor, memory: TemporalMemory) -> Tensor:
        x = self.conv_in(x, memory)
        for block in self.down_blocks:
            x = block(x, memory)
        x = self.mid_block(x, memory)
        return self.conv_out(self.conv_norm_out(x, memory.rows), memory)
