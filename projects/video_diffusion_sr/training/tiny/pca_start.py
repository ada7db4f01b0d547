"""PCA initialisation of a VAE: its latents start as the principal components of small blocks of pixels.

From random weights, a small VAE needs thousands of steps to learn what a linear map can do (25.5 dB on four Kodak
pictures after 3,200 steps; this initialisation has 29.0 dB), because its norms remove brightness and contrast. Here the
skip connections carry the components through the whole network, and residual branches start at zero. The last norms of
encoder and decoder are made nearly linear: silu(x) - silu(-x) = x, and constant channels keep the norms' statistics
nearly constant. The VAE must have three levels, and halve time in the second: a block is 2 frames x 4 x 4 pixels.
"""

import torch
from torch import Tensor, nn

from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.blocks import FrameAttention, ResnetBlock
from models.video_vae_v3.modules.decoder import Decoder3D
from models.video_vae_v3.modules.encoder import Encoder3D

RGB, HALF, BLOCK = 3, 12, 96  # features of a pixel, of 2x2 pixels, and of a block of 2 frames x 4 x 4 pixels
STEADY = 9.0  # energy of the constant channels, divided by that of the signal
FIRST_LOGVAR = -7.0


@torch.no_grad()
def start_from_components(vae: VideoAutoencoderKL, clips: Tensor) -> None:
    """Initialise the weights of a new VAE, in place.

    Args:
        clips: [B, 3, T, H, W] in [-1, 1], T odd, from which the components are computed.

    Raises:
        ValueError: the VAE has other sizes.
    """
    widths = [block.resnets[0].conv2.out_channels for block in vae.encoder.down_blocks]
    c = vae.latent_channels
    one_group = vae.encoder.conv_norm_out.num_groups == 1
    if len(widths) != 3 or vae.temporal_factor != 2 or not one_group or widths[0] < 16 or widths[1] < 2 * c:
        raise ValueError(
            "a start from principal components needs three levels, time halved once, one norm group, 16 and 2 x latent "
            "widths"
        )
    if widths[2] < 4 * c:
        raise ValueError(f"a start from principal components needs {4 * c} channels in the last level, not {widths[2]}")
    mean, basis, gain = components(clips, widths[1], c)
    for module in vae.modules():
        if isinstance(module, ResnetBlock):
            silence(module.conv2)
        elif isinstance(module, FrameAttention):
            silence(module.to_out[0])
    _encoder(vae.encoder, mean, basis, gain, c)
    _decoder(vae.decoder, mean, basis, gain, c)


def components(clips: Tensor, count: int, latents: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [96], the first `count` principal components [count, 96], and the gain of each of the first `latents`.

    A gain is the inverse square root of the component's deviation, halfway (in decibels) to equal deviations. Large
    components still have more weight, as in pixels, and no channel of a diffusion model is only noise.
    """
    x = blocks(clips)
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((x - mean).double().T))
    order = values.argsort(descending=True)[:count]
    spread = values[order[:latents]].clamp_min(1e-8).sqrt()
    return mean, vectors[:, order].T.float(), spread.rsqrt().float()


def blocks(clips: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> [n, 96], features (frame, row and column of 2x2, row and column inside, colour); frames 1.."""
    x = clips[:, :, 1:]
    x = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2, 2)).unflatten(7, (-1, 2, 2))  # B c t f h Y y w X x
    return x.permute(0, 2, 4, 7, 3, 5, 8, 6, 9, 1).reshape(-1, BLOCK)


def silence(conv: nn.Conv3d | nn.Linear) -> None:
    """Set the weights and the bias to zero."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(bias_of(conv))


def bias_of(conv: nn.Conv3d | nn.Linear) -> Tensor:
    """The bias of a layer that has one."""
    assert conv.bias is not None
    return conv.bias


def shortcut_of(block: ResnetBlock) -> nn.Conv3d:
    """The shortcut of a block that changes the width."""
    assert block.conv_shortcut is not None
    return block.conv_shortcut


def _encoder(encoder: Encoder3D, mean: Tensor, basis: Tensor, gain: Tensor, c: int) -> None:
    carry(encoder.conv_in, RGB)
    first, second, last = encoder.down_blocks
    fold = first.downsamplers[0].conv  # 2x2 pixels -> 12 features (y, x, colour)
    fold.weight[:HALF] = 0
    bias_of(fold)[:HALF] = 0
    for y in range(2):
        for x in range(2):
            for colour in range(RGB):
                fold.weight[(2 * y + x) * RGB + colour, colour, 0, y, x] = 1
    carry(shortcut_of(second.resnets[0]), HALF)
    project = second.downsamplers[0].conv  # frames (2k - 1, 2k) are the taps 1 and 2
    silence(project)
    taps = basis.view(len(basis), 2, 2, 2, HALF)  # out f Y X features
    project.weight[: len(basis), :HALF, 1:, :2, :2] = taps.permute(0, 4, 1, 2, 3)
    bias_of(project)[: len(basis)] = -(basis @ mean)
    spread = signed(shortcut_of(last.resnets[0]), torch.diag(gain), c, gain.square().reciprocal())
    out = encoder.conv_out
    silence(out)
    for i in range(c):
        out.weight[i, i, -1, 1, 1], out.weight[i, c + i, -1, 1, 1] = spread, -spread
    bias_of(out)[c:] = FIRST_LOGVAR


def _decoder(decoder: Decoder3D, mean: Tensor, basis: Tensor, gain: Tensor, c: int) -> None:
    carry(decoder.conv_in, c)
    first, second, last = decoder.up_blocks
    carry_all(first.upsamplers[0].conv)
    up = first.upsamplers[0].upscale_conv  # c latents -> 12 features at each (row, column, frame)
    back = (basis[:c] / gain[:, None]).T.reshape(2, 2, 2, HALF, c)  # f Y X features latents
    weight, bias = up.weight.view(2, 2, 2, -1, up.in_channels), bias_of(up).view(2, 2, 2, -1)  # x(=row) y z c
    weight[:, :, :, :HALF], bias[:, :, :, :HALF] = 0, 0
    weight[:, :, :, :HALF, :c] = back.permute(1, 2, 0, 3, 4)
    bias[:, :, :, :HALF] = mean.view(2, 2, 2, HALF).permute(1, 2, 0, 3)
    carry(shortcut_of(second.resnets[0]), HALF)
    carry_all(second.upsamplers[0].conv)
    up = second.upsamplers[0].upscale_conv
    weight = up.weight.view(2, 2, -1, up.in_channels)
    weight[:, :, :RGB] = 0
    for y in range(2):
        for x in range(2):
            for colour in range(RGB):
                weight[y, x, colour, (2 * y + x) * RGB + colour] = 1
    spread = signed(shortcut_of(last.resnets[0]), torch.eye(RGB), RGB, torch.full((RGB,), 0.25))
    silence(decoder.conv_out)
    for i in range(RGB):
        decoder.conv_out.weight[i, i, -1, 1, 1], decoder.conv_out.weight[i, RGB + i, -1, 1, 1] = spread, -spread


def carry(conv: nn.Conv3d, count: int) -> None:
    """Make the first `count` channels pass unchanged; the other output channels keep their random weights."""
    conv.weight[:count] = 0
    bias_of(conv)[:count] = 0
    for i in range(count):
        conv.weight[i, i, -1, conv.kernel_size[1] // 2, conv.kernel_size[2] // 2] = 1


def carry_all(conv: nn.Conv3d) -> None:
    """Make every channel pass unchanged."""
    carry(conv, min(conv.in_channels, conv.out_channels))


def signed(conv: nn.Conv3d, matrix: Tensor, count: int, variance: Tensor) -> Tensor:
    """Make the outputs the signal, minus the signal, and constants. Returns the deviation by which the norm divides.

    Args:
        matrix: [count, inputs], the map from inputs to the signal.
        variance: [count], the variance of the signal.
    """
    silence(conv)
    conv.weight[:count, : matrix.shape[1], 0, 0, 0] = matrix
    conv.weight[count : 2 * count, : matrix.shape[1], 0, 0, 0] = -matrix
    constants = conv.out_channels - 2 * count
    energy = 2 * variance.sum()
    level = (STEADY * energy / constants).sqrt()
    bias = bias_of(conv)
    bias[2 * count :: 2], bias[2 * count + 1 :: 2] = level, -level
    return ((1 + STEADY) * energy / conv.out_channels).sqrt()
