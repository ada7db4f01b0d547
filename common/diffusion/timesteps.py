"""Which times are visited: in sampling, in training, and how they move with the size of a clip."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IMAGE_LINE = ((256 * 256, 1.0), (1024 * 1024, 3.2))  # (pixels, shift) at two points
VIDEO_LINE = ((256 * 256 * 37, 1.0), (1280 * 720 * 145, 5.0))


def shifted(u: Tensor, shift: Tensor | float) -> Tensor:
    """s u / (1 + (s - 1) u): moves times u in [0, 1] towards noise for s > 1, towards the sample for s < 1."""
    return shift * u / (1 + (shift - 1) * u)


def uniform_trailing(steps: int, T: float = 1000.0, shift: float = 1.0) -> Tensor:
    """The sampling times, from T downwards and never 0: float32 [steps], u_i = 1 - i/steps, shifted, times T."""
    if steps < 1:
        raise ValueError(f"sampling needs at least one step, got {steps}")
    if not shift > 0:
        raise ValueError(f"the shift of the sampling timesteps must be positive, got {shift}")
    u = 1 - torch.arange(steps, dtype=torch.float64) / steps  # float64: exactly `steps` values, 1 first
    return (shifted(u, shift) * T).float()


@dataclass(frozen=True)
class LogitNormal:
    """Training times whose logit is normal: most of them in the middle of the schedule."""

    T: float = 1000.0
    loc: float = 0.0
    scale: float = 1.0

    def sample(self, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """float32 [count] in (0, T). The draw is made on the generator's device, then moved."""
        logits = torch.randn(count, generator=generator, device=generator.device) * self.scale + self.loc
        return (logits.sigmoid() * self.T).to(device)


def resolution_shift(
    t: Tensor | float,
    latent_shapes: Tensor | Sequence[Sequence[int]],
    *,
    T: float = 1000.0,
    temporal_factor: int = 4,
    spatial_factor: int = 8,
) -> Tensor:
    """Times moved by the size of what they are drawn for: larger clips need more noise to lose as much structure.

    Used for training times and for the condition noise, never for sampling times.

    Args:
        t: times in [0, T], one for all or [B].
        latent_shapes: [B, 3] latent (t, h, w), one row a sample.
        temporal_factor: frames of the clip for each latent frame after the first.
        spatial_factor: pixels along a latent's edge.

    Returns:
        float32 [B] in [0, T], on the device of t when t is a tensor.
    """
    t = torch.as_tensor(t, dtype=torch.float32)
    shapes = torch.as_tensor(latent_shapes, dtype=torch.float64)
    if shapes.ndim != 2 or shapes.shape[1] != 3:
        raise ValueError(f"latent shapes must be [B, 3] rows of (t, h, w), got shape {tuple(shapes.shape)}")
    shapes = shapes.to(t.device)
    frames = (shapes[:, 0] - 1) * temporal_factor + 1
    pixels = shapes[:, 1] * spatial_factor * shapes[:, 2] * spatial_factor  # of one frame
    shift = torch.where(frames > 1, on_line(pixels * frames, VIDEO_LINE), on_line(pixels, IMAGE_LINE))
    return (shifted(t.double() / T, shift) * T).float()


def on_line(x: Tensor, line: tuple[tuple[float, float], tuple[float, float]]) -> Tensor:
    """The height at x of the straight line through two points, also outside of them."""
    (x1, y1), (x2, y2) = line
    return y1 + (x - x1) * (y2 - y1) / (x2 - x1)


def shape_with_channels_read_as_width(latent_shape: Sequence[int]) -> tuple[int, int, int]:
    """The quirk of the released multi-step models: (t, h, w, c) -> (h, w, c), taken for (t, h, w) by what follows."""
    _, h, w, c = latent_shape
    return h, w, c


def condition_timestep(
    noise_scale: float,
    latent_shape: Sequence[int],
    *,
    channels_read_as_width: bool,
    T: float = 1000.0,
    temporal_factor: int = 4,
    spatial_factor: int = 8,
    transform: bool = True,
) -> Tensor:
    """The time to which the condition latents of one clip are noised.

    Args:
        noise_scale: share of T before the shift, in [0, 1]; SeedVR2 uses 0, SeedVR 0.1.
        latent_shape: the clip's latents (t, h, w, c).
        channels_read_as_width: compute the shift from (h, w, c) instead of (t, h, w). The programs with which the
            multi-step models were released do so; it is their presets' default to give the published result. At noise
            scale 0 it changes nothing.
        transform: shift by the resolution at all (`diffusion.timesteps.transform`).

    Returns:
        float32 scalar in [0, T].
    """
    if not 0 <= noise_scale <= 1:
        raise ValueError(f"the condition noise is a share of the schedule in [0, 1], got {noise_scale}")
    if len(latent_shape) != 4:
        raise ValueError(f"the latent shape must be (t, h, w, c), got {tuple(latent_shape)}")
    t = torch.tensor(T * noise_scale, dtype=torch.float32)
    if not transform:
        return t
    shape = shape_with_channels_read_as_width(latent_shape) if channels_read_as_width else tuple(latent_shape[:3])
    return resolution_shift(t, [shape], T=T, temporal_factor=temporal_factor, spatial_factor=spatial_factor)[0]
