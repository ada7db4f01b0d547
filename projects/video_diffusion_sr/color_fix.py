"""The colour fix: the output keeps its detail and takes the input's colours.

Pictures are [B, 3, H, W] (B frames or samples, each for itself), values in [-1, 1], `content` the network's output,
`style` the resized input of the same size. Everything is computed in float32 and not clamped.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from projects.video_diffusion_sr.lab_color import lab_to_rgb, match_distribution, rgb_to_lab

WAVELET_LEVELS = 5  # blurs with reach 1, 2, 4, 8, 16: below about 32 pixels is detail, above it colour
KINDS = ("wavelet", "lab", "adain", "none")
ADAIN_EPS = 1e-5  # added to the variance


def fix_colour(kind: str, content: Tensor, style: Tensor) -> Tensor:
    """`content` with the colours of `style`, by the method named `kind`, one of `KINDS`."""
    if kind == "wavelet":
        return wavelet_reconstruction(content, style)
    if kind == "lab":
        return lab_transfer(content, style)
    if kind == "adain":
        return adain(content, style)
    if kind == "none":
        return content
    raise ValueError(f"unknown colour fix {kind!r}; choose one of {', '.join(KINDS)}")


def wavelet_reconstruction(content: Tensor, style: Tensor) -> Tensor:
    """High frequencies of `content` plus low frequencies of `style`.

    Args:
        content, style: [B, 3, H, W], any float dtype, any size, also smaller than the blur's reach.

    Returns:
        float32 [B, 3, H, W], not clamped.
    """
    check_same_size(content, style)
    content = content.float()
    # The bands x_i - x_{i+1} sum to x_0 - x_5, and the blur is linear, so only the pictures' difference needs it:
    # (content - blur(content)) + blur(style) = content + blur(style - content), half of the work and of the memory.
    return content + low_frequencies(style.float() - content)


def lab_transfer(content: Tensor, style: Tensor) -> Tensor:
    """Lightness as `wavelet_reconstruction`; of a* and b*, the low frequencies get the distribution of `style`'s.

    A colour stays where the network put it, while casts and saturation become the input's. Chroma noise and blocks of
    the input, which "wavelet" takes over where they are large, only count as part of a distribution. Both halves are
    made one picture at a time, so that memory does not grow with their number.

    Args:
        content, style: [B, 3, H, W] sRGB about [-1, 1], any float dtype, any size.

    Returns:
        float32 [B, 3, H, W], not clamped.
    """
    check_same_size(content, style)
    fixed = torch.empty(content.shape, dtype=torch.float32, device=content.device)
    for i in range(len(content)):
        lab, wanted = rgb_to_lab(content[i : i + 1].float()), rgb_to_lab(style[i : i + 1].float())
        low, target = low_frequencies(lab), low_frequencies(wanted)
        change = target - low  # of lightness: the wavelet fix
        change[:, 1:] = match_distribution(low[:, 1:], target[:, 1:]) - low[:, 1:]
        fixed[i : i + 1] = lab_to_rgb(lab + change)
    return fixed


def low_frequencies(x: Tensor) -> Tensor:
    """x [B, C, H, W] after five blurs, each of twice the reach of the one before."""
    for level in range(WAVELET_LEVELS):
        x = blur_along(blur_along(x, -1, 2**level), -2, 2**level)
    return x


def blur_along(x: Tensor, dim: int, reach: int) -> Tensor:
    """(x[i - reach] + 2 x[i] + x[i + reach]) / 4 along one of the last two dimensions, edges repeated.

    Applied along both it is the 3x3 kernel [1 2 1; 2 4 2; 1 2 1]/16 dilated by `reach` with replicate padding.
    """
    pad = (reach, reach, 0, 0) if dim == -1 else (0, 0, reach, reach)
    padded = F.pad(x, pad, mode="replicate")
    n = x.shape[dim]
    before, after = padded.narrow(dim, 0, n), padded.narrow(dim, 2 * reach, n)
    return torch.add(before, after).mul_(0.25).add_(x, alpha=0.5)


def adain(content: Tensor, style: Tensor) -> Tensor:
    """`content` with each frame's and channel's mean and standard deviation made those of `style`.

    Args:
        content, style: [B, 3, H, W], any float dtype, two pixels or more.

    Returns:
        float32 [B, 3, H, W], not clamped. std = sqrt(unbiased variance + 1e-5).
    """
    check_same_size(content, style)
    content_mean, content_std = mean_and_std(content.float())
    style_mean, style_std = mean_and_std(style.float())
    return (content.float() - content_mean) / content_std * style_std + style_mean


def mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the picture, each [B, C, 1, 1]."""
    variance, mean = torch.var_mean(x, dim=(-2, -1), keepdim=True)
    return mean, (variance + ADAIN_EPS).sqrt()


def check_same_size(content: Tensor, style: Tensor) -> None:
    """ValueError unless both are [B, C, H, W] of one size."""
    if content.ndim != 4 or content.shape != style.shape:
        raise ValueError(
            f"the colour fix needs two pictures [B, 3, H, W] of one size, got {tuple(content.shape)} and "
            f"{tuple(style.shape)}; resize the input to the output's size first"
        )
