"""Adversarial post-training: the one-step model against real latents (SeedVR2, arXiv 2506.05301, section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.diffusion.adversarial import (
    approximated_penalty,
    feature_matching,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
    shifted_uniform_times,
)
from models.nadit.discriminator import DiscriminatorOutput
from projects.video_diffusion_sr.lora import LoraSettings
from projects.video_diffusion_sr.training.conditioning import Prompts, Texts
from projects.video_diffusion_sr.training.latent_stage import LatentStage, Prepared
from projects.video_diffusion_sr.training.settings import OptimizerSettings
from projects.video_diffusion_sr.training.stage import Player

if TYPE_CHECKING:
    from projects.video_diffusion_sr.train import VideoDiffusionTrainer, Weights


@dataclass(frozen=True)
class LossWeights:
    """What each loss counts. gan, l1, features: of the generator; r1, r2: of the discriminator's penalties."""

    gan: float = 1.0
    l1: float = 0.1
    features: float = 0.1
    r1: float = 1000.0
    r2: float = 1000.0


@dataclass(frozen=True)
class AdversarialSettings:
    """The section `adversarial` of a training YAML.

    taps: blocks, from 1, after which the discriminator has heads; null puts them as in the paper, in proportion.
    sigma: of the noise of both penalties.
    image_shift, video_shift: of the times at which the discriminator looks.
    generator_every, discriminator_every: each plays in every so manieth step.
    together: run the discriminator's four batches as one; it is faster and needs more memory.
    noise_scale, ema_decay: null takes the model's YAML.
    """

    generator: OptimizerSettings = field(default_factory=OptimizerSettings)
    discriminator: OptimizerSettings = field(default_factory=OptimizerSettings)
    weights: LossWeights = field(default_factory=LossWeights)
    taps: tuple[int, ...] | None = None
    sigma: float = 0.1
    image_shift: float = 1.0
    video_shift: float = 12.0
    generator_every: int = 1
    discriminator_every: int = 1
    together: bool = True
    noise_scale: float | None = None
    ema_decay: float | None = 0.995


class AdversarialStage(LatentStage):
    """Generator x^ = noise - v(noise, condition, T) against a discriminator on the same backbone.

    Args:
        weights: of the distilled model, where the generator starts.
        discriminator_weights: of the diffusion model before distillation, where the discriminator's backbone starts.
    """

    name = "adversarial"

    def __init__(
        self,
        recipe: "VideoDiffusionTrainer",
        settings: AdversarialSettings,
        prompts: Prompts,
        weights: "Weights",
        discriminator_weights: "Weights",
        with_vae: bool = True,
        lora: LoraSettings | None = None,
    ) -> None:
        super().__init__(recipe, prompts, settings.noise_scale, 0.0, with_vae)
        if recipe.diffusion.loss != "v_lerp":
            raise ValueError(f"a step from T is noise - v; diffusion.loss.type {recipe.diffusion.loss} is no such v")
        self.settings = settings
        self.modules["dit"], state = recipe.build_dit(weights, lora)
        self.modules["discriminator"], other = recipe.build_discriminator(discriminator_weights, settings.taps)
        for name, values in (("dit", state), ("discriminator", other)):
            if values is not None:
                self.weights[name] = values
        if lora is not None:
            self.use_lora(lora)
        self.ema_of = ("dit",)
        self.ema_decay = recipe.ema_decay if settings.ema_decay is None else settings.ema_decay
        self.players = (
            Player("discriminator", ("discriminator",), settings.discriminator, every=settings.discriminator_every),
            Player("generator", ("dit",), settings.generator, every=settings.generator_every),
        )
        # Discriminator: one pass to generate, then four forward and backward. Generator: one forward and backward of
        # its own, and of the discriminator two forward and one backward, which is counted for its inputs only.
        self.passes = (1 + 4 * 3) / settings.discriminator_every + (3 + 3) / settings.generator_every

    def units(self, name: str) -> Sequence[nn.Module]:
        if name == "discriminator":
            return list(self.modules[name].backbone.blocks)
        return super().units(name)

    def losses(self, player: str, prepared: Prepared, draws: torch.Generator) -> dict[str, Tensor]:
        if player == "generator":
            return self._generator_losses(prepared, draws)
        return self._discriminator_losses(prepared, draws)

    def generate(self, at: Prepared, draws: torch.Generator) -> Tensor:
        """Latents [L0, c] in one step from noise."""
        noise = self.normal(at.hq, draws)
        start = torch.full((), self.schedule.T, device=self.device)  # filled there: a copy would wait for the device
        return noise - self.predict(self.modules["dit"], noise, at, start)

    def _times(self, at: Prepared, draws: torch.Generator) -> Tensor:
        settings = self.settings
        frames = at.shapes.size_table[:, 0].float()
        return shifted_uniform_times(frames, settings.image_shift, settings.video_shift, self.schedule.T, draws)

    def _discriminator_losses(self, at: Prepared, draws: torch.Generator) -> dict[str, Tensor]:
        weights, sigma = self.settings.weights, self.settings.sigma
        with torch.no_grad():
            fake = self.generate(at, draws)
        near_real = at.hq + sigma * self.normal(fake, draws)
        near_fake = fake + sigma * self.normal(fake, draws)
        real, generated, real_near, generated_near = self._logits([at.hq, fake, near_real, near_fake], at, draws)
        losses = {
            "gan": relativistic_discriminator_loss(real, generated),
            "r1": approximated_penalty(real, real_near),
            "r2": approximated_penalty(generated, generated_near),
        }
        total = losses["gan"] + weights.r1 * losses["r1"] + weights.r2 * losses["r2"]
        return losses | {"total": total, "real": real.mean(), "fake": generated.mean()}

    def _generator_losses(self, at: Prepared, draws: torch.Generator) -> dict[str, Tensor]:
        weights = self.settings.weights
        fake = self.generate(at, draws)
        t = self._times(at, draws)
        with torch.no_grad():
            real = self._judge([at.hq], at, t)
        generated = self._judge([fake], at, t)
        share = self._token_share(at)
        losses = {
            "gan": relativistic_generator_loss(real.logits, generated.logits),
            "l1": at.shapes.mean((fake - at.hq).abs()),
            "features": feature_matching(real.features, generated.features, share),
        }
        total = weights.gan * losses["gan"] + weights.l1 * losses["l1"] + weights.features * losses["features"]
        return losses | {"total": total}

    def _logits(self, latents: list[Tensor], at: Prepared, draws: torch.Generator) -> list[Tensor]:
        """Logits [B] of several versions of a batch, all at the same times."""
        t = self._times(at, draws)
        if not self.settings.together:
            return [self._judge([x], at, t).logits for x in latents]
        return list(self._judge(latents, at, t).logits.chunk(len(latents)))

    def _judge(self, latents: list[Tensor], at: Prepared, t: Tensor) -> DiscriminatorOutput:
        """The discriminator on several versions of a batch, packed one after another."""
        count, texts = len(latents), at.texts
        sizes, lengths = at.shapes.sizes * count, texts.lengths * count
        packed = torch.cat([torch.cat([x, at.given], dim=1) for x in latents])
        texts = Texts(texts.tokens.repeat(count, 1), lengths)
        discriminator = self.modules["discriminator"]
        layout = self.cache.layout(discriminator.backbone, sizes, lengths)
        return discriminator(packed, texts.tokens, sizes, [[n] for n in lengths], t.repeat(count), layout=layout)

    def _token_share(self, at: Prepared) -> Tensor:
        """[L] what each video token counts, as `Shapes.row_share` for latent positions."""
        patch = self.modules["dit"].config.patch_size
        grids = [tuple(n // p for n, p in zip(size, patch, strict=True)) for size in at.shapes.sizes]
        return self.cache.shapes(grids).row_share

    def images(self, prepared: Prepared, draws: torch.Generator) -> dict[str, Tensor]:
        if "vae" not in self.frozen:
            return {}
        at = self.first(prepared)
        return self.triptych(at, self.generate(at, draws))
