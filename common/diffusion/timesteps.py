"""The times of sampling and of training, and their shift with the size of a clip."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IMAGE_LINE = ((256 * 256, 1.0), (1024 * 1024, 3.2))  # two points (pixels, shift) of a straight line
VIDEO_LINE = ((256 * 256 * 37, 1.0), (1280 * 720 * 145, 5.0))


def shifted(u: Tensor, shift: Tensor | float) -> Tensor:
    """s u / (1 + (s - 1) u), with u in [0, 1]. s > 1 moves times towards noise, s < 1 towards the sample."""
    return shift * u / (1 + (shift - 1) * u)


def uniform_trailing(steps: int, T: float = 1000.0, shift: float = 1.0) -> Tensor:
    """The sampling times, decreasing from T, without 0: float32 [steps], T shift(u_i) with u_i = 1 - i/steps."""
    if steps < 1:
        raise ValueError(f"sampling needs at least one step, got {steps}")
    if not shift > 0:
        raise ValueError(f"the shift of the sampling timesteps must be positive, got {shift}")
    u = 1 - torch.arange(steps, dtype=torch.float64) / steps  # float64: exactly `steps` values, 1 first
    return (shifted(u, shift) * T).float()


@dataclass(frozen=True)
class LogitNormal:
    """Training times with a normally distributed logit, so most of them are in the middle of the schedule."""

    T: float = 1000.0
    loc: float = 0.0
    scale: float = 1.0

    def sample(self, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Draw times: float32 [count] in (0, T). They are drawn on the generator's device and then moved."""
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
    """Shift times according to the clip's size, since larger clips need more noise to lose the same structure.

    Training times and the condition noise use this shift; sampling times do not.

    Args:
        t: times in [0, T], one for all samples or [B].
        latent_shapes: [B, 3], latent (t, h, w) of each sample.
        temporal_factor: number of frames per latent frame after the first.
        spatial_factor: number of pixels per latent position along height and width.

    Returns:
        float32 [B] in [0, T], on the device of t if t is a tensor.
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
    """The value at x of the straight line through two points, also outside their interval."""
    (x1, y1), (x2, y2) = line
    return y1 + (x - x1) * (y2 - y1) / (x2 - x1)


def shape_with_channels_read_as_width(latent_shape: Sequence[int]) -> tuple[int, int, int]:
    """The quirk of the released multi-step models: (t, h, w, c) -> (h, w, c), which is then used as (t, h, w)."""
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
        noise_scale: the time before the shift as a fraction of T, in [0, 1]; SeedVR2 uses 0, SeedVR 0.1.
        latent_shape: (t, h, w, c) of the clip's latents.
        channels_read_as_width: compute the shift from (h, w, c) instead of (t, h, w), as the programs released with the
            multi-step models do. Their presets use it, to give the published results. At noise scale 0 it has no
            effect.
        transform: apply the resolution shift (`diffusion.timesteps.transform`).

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
