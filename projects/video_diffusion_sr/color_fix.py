"""The colour fix: the output keeps its detail and gets the colours of the input.

Pictures are [B, 3, H, W] with values in [-1, 1], of which each is processed separately. `content` is the network's
output, and `style` the resized input of the same size. Results are float32 and not clamped.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from projects.video_diffusion_sr.lab_color import lab_to_rgb, match_distribution, rgb_to_lab

WAVELET_LEVELS = 5  # blurs of reach 1, 2, 4, 8, 16, so that detail is what is smaller than about 32 pixels
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
    """The high frequencies of `content` plus the low frequencies of `style`.

    Args:
        content, style: [B, 3, H, W], any float dtype; the size may be smaller than the blur's reach.

    Returns:
        float32 [B, 3, H, W], not clamped.
    """
    check_same_size(content, style)
    content = content.float()
    # The bands x_i - x_{i+1} sum to x_0 - x_5, and the blur is linear, so it is enough to blur the difference:
    # (content - blur(content)) + blur(style) = content + blur(style - content). That halves work and memory.
    return content + low_frequencies(style.float() - content)


def lab_transfer(content: Tensor, style: Tensor) -> Tensor:
    """The colour fix in CIELAB: L* as in `wavelet_reconstruction`, a* and b* by matching their distributions.

    The low frequencies of a* and b* get the distribution of those of `style`. So colours keep the positions of the
    network's output, while colour casts and saturation become those of the input. The wavelet fix also copies large
    chroma noise and blocks of the input; here these only affect the distribution. Pictures are processed one at a time,
    so that temporary memory does not grow with B.

    Args:
        content, style: [B, 3, H, W], sRGB about [-1, 1], any float dtype and size.

    Returns:
        float32 [B, 3, H, W], not clamped.
    """
    check_same_size(content, style)
    fixed = torch.empty(content.shape, dtype=torch.float32, device=content.device)
    for i in range(len(content)):
        lab, wanted = rgb_to_lab(content[i : i + 1].float()), rgb_to_lab(style[i : i + 1].float())
        low, target = low_frequencies(lab), low_frequencies(wanted)
        change = target - low  # for lightness, this is the wavelet fix
        change[:, 1:] = match_distribution(low[:, 1:], target[:, 1:]) - low[:, 1:]
        fixed[i : i + 1] = lab_to_rgb(lab + change)
    return fixed


def low_frequencies(x: Tensor) -> Tensor:
    """x [B, C, H, W] after `WAVELET_LEVELS` blurs, each with twice the reach of the previous one."""
    for level in range(WAVELET_LEVELS):
        x = blur_along(blur_along(x, -1, 2**level), -2, 2**level)
    return x


def blur_along(x: Tensor, dim: int, reach: int) -> Tensor:
    """(x[i - reach] + 2 x[i] + x[i + reach]) / 4 along one of the last two dimensions, with replicate padding.

    Applied along both, it is the 3x3 kernel [1 2 1; 2 4 2; 1 2 1]/16 dilated by `reach`.
    """
    pad = (reach, reach, 0, 0) if dim == -1 else (0, 0, reach, reach)
    padded = F.pad(x, pad, mode="replicate")
    n = x.shape[dim]
    before, after = padded.narrow(dim, 0, n), padded.narrow(dim, 2 * reach, n)
    return torch.add(before, after).mul_(0.25).add_(x, alpha=0.5)


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Adaptive instance normalisation (AdaIN, arXiv 1703.06868) of pixels.

    Each frame's and channel's mean and standard deviation become those of `style`.

    Args:
        content, style: [B, 3, H, W], any float dtype, at least two pixels.

    Returns:
        float32 [B, 3, H, W], not clamped. std = sqrt(unbiased variance + 1e-5).
    """
    check_same_size(content, style)
    content_mean, content_std = mean_and_std(content.float())
    style_mean, style_std = mean_and_std(style.float())
    return (content.float() - content_mean) / content_std * style_std + style_mean


def mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and standard deviation of each channel of each picture, [B, C, 1, 1] each."""
    variance, mean = torch.var_mean(x, dim=(-2, -1), keepdim=True)
    return mean, (variance + ADAIN_EPS).sqrt()


def check_same_size(content: Tensor, style: Tensor) -> None:
    """Raise ValueError unless both are [B, C, H, W] of the same size."""
    if content.ndim != 4 or content.shape != style.shape:
        raise ValueError(
            f"the colour fix needs two pictures [B, 3, H, W] of one size, got {tuple(content.shape)} and "
            f"{tuple(style.shape)}; resize the input to the output's size first"
        )
