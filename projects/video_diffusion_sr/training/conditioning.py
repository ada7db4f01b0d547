"""What the transformer is told about a clip: the condition latents with their mask, and the text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.diffusion import LinearInterpolation, resolution_shift
from projects.video_diffusion_sr.training.packed import Shapes

GIVEN_FRAMES = {"i2v": 1, "v2v": 2}  # latent frames of the ground truth that these tasks are given


@dataclass(frozen=True)
class ConditionSettings:
    """The `condition` section of a model's YAML.

    sr, i2v, v2v: chance of restoration, of image to video and of video extension; what is left is text to video.
    noise_scale: the condition of restoration is noised to a time up to this share of the schedule.
    """

    i2v: float
    v2v: float
    sr: float
    noise_scale: float

    def __post_init__(self) -> None:
        chances = (self.i2v, self.v2v, self.sr)
        if min(chances) < 0 or sum(chances) > 1 + 1e-6:
            raise ValueError(f"condition: the chances of i2v, v2v and sr are {chances}; they must sum to at most 1")
        if not 0 <= self.noise_scale <= 1:
            raise ValueError(f"condition.noise_scale must be in [0, 1], got {self.noise_scale}")

    @staticmethod
    def read(config: Mapping[str, Any]) -> "ConditionSettings":
        """From the YAML; ValueError for a key that is unknown or missing."""
        known = {"i2v", "v2v", "sr", "noise_scale"}
        if set(config) != known:
            raise ValueError(f"the section `condition` must have the keys {sorted(known)}, got {sorted(config)}")
        return ConditionSettings(**{key: float(config[key]) for key in known})


@dataclass(frozen=True)
class Conditioner:
    """Draws a task and a noise level for each sample.

    Attributes:
        temporal_factor, spatial_factor: of the VAE; the resolution shift counts pixels.
        transform: shift the noise level by the resolution.
    """

    settings: ConditionSettings
    schedule: LinearInterpolation
    temporal_factor: int
    spatial_factor: int
    transform: bool

    def __call__(self, hq: Tensor, lq: Tensor, shapes: Shapes, draws: torch.Generator) -> Tensor:
        """Condition and mask, [L0, c + 1], of packed latents [L0, c]."""
        given = self._noised(lq, shapes, draws)
        if self.settings.sr >= 1:
            return torch.cat([given, torch.ones_like(given[:, :1])], dim=1)
        u = shapes.per_row(torch.rand(len(shapes.sizes), generator=draws, device=hq.device))
        sr, i2v, v2v = self.settings.sr, self.settings.i2v, self.settings.v2v
        restored = u < sr
        extended = ((u >= sr) & (u < sr + i2v) & (shapes.frame_of_row < GIVEN_FRAMES["i2v"])) | (
            (u >= sr + i2v) & (u < sr + i2v + v2v) & (shapes.frame_of_row < GIVEN_FRAMES["v2v"])
        )
        mask = (restored | extended)[:, None].to(hq.dtype)
        return torch.cat([torch.where(restored[:, None], given, hq) * mask, mask], dim=1)

    def _noised(self, lq: Tensor, shapes: Shapes, draws: torch.Generator) -> Tensor:
        """Synthetic degradation is harsher than the real one; noise softens the condition (arXiv 2501.01320, 3.3)."""
        if self.settings.noise_scale == 0:
            return lq
        u = torch.rand(len(shapes.sizes), generator=draws, device=lq.device)
        t = u * self.settings.noise_scale * self.schedule.T
        noise = torch.randn(lq.shape, generator=draws, device=lq.device)
        return self.schedule.forward(lq, noise, shapes.per_row(self.shifted(t, shapes)))

    def shifted(self, t: Tensor, shapes: Shapes) -> Tensor:
        """Times [B] after the resolution shift, where the YAML asks for it."""
        if not self.transform:
            return t
        factors = {"temporal_factor": self.temporal_factor, "spatial_factor": self.spatial_factor}
        return resolution_shift(t, shapes.size_table, T=self.schedule.T, **factors)


@dataclass(frozen=True)
class Texts:
    """Packed text embeddings [M, width] and the tokens of each sample."""

    tokens: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Prompts:
    """The two fixed embeddings [tokens, width] on the device."""

    positive: Tensor
    negative: Tensor

    def of(self, negative: list[bool]) -> Texts:
        """One embedding for every sample."""
        chosen = [self.negative if n else self.positive for n in negative]
        return Texts(torch.cat(chosen), tuple(len(c) for c in chosen))

    def drawn(self, samples: int, dropout: float, draws: torch.Generator) -> Texts:
        """The positive one, replaced by the negative one with chance `dropout`.

        The choice is made on the CPU from the generator's seed: it decides shapes, and a device would have to be asked.
        """
        dice = torch.Generator().manual_seed(draws.initial_seed())
        return self.of((torch.rand(samples, generator=dice) < dropout).tolist())
