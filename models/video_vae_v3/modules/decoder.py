"""The decoder of the VAE: latents to pixels."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.module_list import module_list
from models.video_vae_v3.modules.blocks import FrameNorm, MidBlock, ResnetBlock, Upsample
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.temporal_memory import TemporalMemory


class UpDecoderBlock3D(nn.Module):
    """A level of the decoder: resnet blocks, then an `Upsample`, which the last level (`temporal` None) lacks."""

    def __init__(self, channels_in: int, channels_out: int, layers: int, groups: int, temporal: bool | None) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * layers
        self.resnets = module_list([ResnetBlock(widths[i], widths[i + 1], groups) for i in range(layers)])
        upsamplers = [] if temporal is None else [Upsample(channels_out, temporal)]
        self.upsamplers = module_list(upsamplers)

    def forward(self, x: Tensor, memory: TemporalMemory) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x, memory)
        return x


class Decoder3D(nn.Module):
    """[B, latent_channels, t, h, w] -> [B, out_channels, T, H, W].

    Time is doubled in the first `temporal_scale_num` of the upsampling levels.
    """

    def __init__(
        self,
        out_channels: int,
        latent_channels: int,
        block_out_channels: Sequence[int],
        layers_per_block: int,
        groups: int,
        temporal_scale_num: int,
    ) -> None:
        super().__init__()
        widths, doublings = list(reversed(block_out_channels)), len(block_out_channels) - 1
        self.conv_in = CausalConv3d(latent_channels, widths[0])
        blocks = []
        for level, width in enumerate(widths):
            temporal = None if level == doublings else level < temporal_scale_num
            before = widths[max(level - 1, 0)]
            blocks.append(UpDecoderBlock3D(before, width, layers_per_block + 1, groups, temporal))
        self.up_blocks = module_list(blocks)
        self.mid_block = MidBlock(widths[0], groups)
        self.conv_norm_out = FrameNorm(widths[-1], groups, silu=True)
        self.conv_out = CausalConv3d(widths[-1], out_channels)

    def forward(self, z: Tensor, memory: TemporalMemory) -> Tensor:
        x = self.mid_block(self.conv_in(z, memory), memory)
        for block in self.up_blocks:
            x = block(x, memory)
        return self.conv_out(self.conv_norm_out(x, memory.rows), memory)
