"""The transformer's inputs apart from the noisy latents: the condition latents with their mask, and the text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion import LinearInterpolation, resolution_shift
from projects.video_diffusion_sr.training.packed import Shapes

GIVEN_FRAMES = {"i2v": 1, "v2v": 2}  # latent frames of the ground truth that these tasks are given


@dataclass(frozen=True)
class ConditionSettings:
    """The `condition` section of a model's YAML.

    sr, i2v, v2v: probabilities of restoration, image to video, and video extension; the rest is for text to video.
    noise_scale: the largest time, as a fraction of T, to which the condition of restoration is noised.
    """

    i2v: float
    v2v: float
    sr: float
    noise_scale: float

    def __post_init__(self) -> None:
        chances = (self.i2v, self.v2v, self.sr)
        if min(chances) < 0 or sum(chances) > 1 + 1e-6:
            raise ValueError(f"condition: the probabilities of i2v, v2v and sr are {chances}; their sum is at most 1")
        if not 0 <= self.noise_scale <= 1:
            raise ValueError(f"condition.noise_scale must be in [0, 1], got {self.noise_scale}")


@dataclass(frozen=True)
class Conditioner:
    """Draws a task and a noise level for each sample.

    Attributes:
        temporal_factor, spatial_factor: compression of the VAE; the resolution shift is computed from pixels.
        transform: apply the resolution shift to the noise level.
    """

    settings: ConditionSettings
    schedule: LinearInterpolation
    temporal_factor: int
    spatial_factor: int
    transform: bool

    def __call__(self, hq: Tensor, lq: Tensor, shapes: Shapes, generator: torch.Generator) -> Tensor:
        """Draw the condition and its mask, [L0, c + 1], from packed latents [L0, c] of ground truth and input."""
        given = self._noised(lq, shapes, generator)
        if self.settings.sr >= 1:
            return torch.cat([given, torch.ones_like(given[:, :1])], dim=1)
        u = shapes.per_row(torch.rand(len(shapes.sizes), generator=generator, device=hq.device))
        sr, i2v, v2v = self.settings.sr, self.settings.i2v, self.settings.v2v
        restored = u < sr
        extended = ((u >= sr) & (u < sr + i2v) & (shapes.frame_of_row < GIVEN_FRAMES["i2v"])) | (
            (u >= sr + i2v) & (u < sr + i2v + v2v) & (shapes.frame_of_row < GIVEN_FRAMES["v2v"])
        )
        mask = (restored | extended)[:, None].to(hq.dtype)
        return torch.cat([torch.where(restored[:, None], given, hq) * mask, mask], dim=1)

    def _noised(self, lq: Tensor, shapes: Shapes, generator: torch.Generator) -> Tensor:
        """Add noise to the condition, because synthetic degradation is harsher than real (arXiv 2501.01320, 3.3)."""
        if self.settings.noise_scale == 0:
            return lq
        u = torch.rand(len(shapes.sizes), generator=generator, device=lq.device)
        t = u * self.settings.noise_scale * self.schedule.T
        noise = torch.randn(lq.shape, generator=generator, device=lq.device)
        return self.schedule.forward(lq, noise, shapes.per_row(self.shifted(t, shapes)))

    def shifted(self, t: Tensor, shapes: Shapes) -> Tensor:
        """Apply the resolution shift to times [B], if the YAML asks for it."""
        if not self.transform:
            return t
        factors = {"temporal_factor": self.temporal_factor, "spatial_factor": self.spatial_factor}
        return resolution_shift(t, shapes.size_table, T=self.schedule.T, **factors)


@dataclass(frozen=True)
class Texts:
    """Packed text embeddings: `tokens` [M, width], and `lengths`, the number of tokens of each sample."""

    tokens: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class TrainingPrompts:
    """The text embeddings that all clips share, [tokens, width] each, on one device.

    positive: the text of every clip that has no text embedding of its own.
    negative: the text of the unconditional prediction in guidance, for models that are released with one.
    null: the null text, for prompt dropout and for guidance without a negative text. The default is one token of zeros,
        which no text encoder produces.
    """

    positive: Tensor
    negative: Tensor
    null: Tensor | None = None

    def __post_init__(self) -> None:
        if self.null is None:
            object.__setattr__(self, "null", torch.zeros_like(self.positive[:1]))

    @property
    def width(self) -> int:
        return self.positive.shape[1]

    @property
    def null_text(self) -> Tensor:
        """`null`, or what stands for it."""
        assert self.null is not None, "__post_init__ sets it"
        return self.null

    def to(self, device: torch.device | str) -> "TrainingPrompts":
        """Copy the embeddings to another device."""
        return TrainingPrompts(self.positive.to(device), self.negative.to(device), self.null_text.to(device))

    def unconditional(self, kind: str, samples: int) -> Texts:
        """The text of the unconditional prediction, repeated for every sample; `kind` is "negative" or "null_text"."""
        return joined([{"negative": self.negative, "null_text": self.null_text}[kind]] * samples)

    def drawn(self, given: Sequence[Tensor | None], dropout: float, generator: torch.Generator) -> Texts:
        """Choose a text for each sample: the null text with probability `dropout`, else its own, else the positive one.

        The choice is drawn on the CPU, seeded by the generator's seed. Shapes depend on it, and reading it from the
        device would make the host wait.
        """
        on_cpu = torch.Generator().manual_seed(generator.initial_seed())
        dropped = (torch.rand(len(given), generator=on_cpu) < dropout).tolist()
        texts = [self.positive if text is None else text for text in given]
        return joined([self.null_text if drop else text for drop, text in zip(dropped, texts, strict=True)])


def joined(texts: Sequence[Tensor]) -> Texts:
    """Pack the embeddings of all samples."""
    return Texts(torch.cat(list(texts)), tuple(len(text) for text in texts))
