"""The adversarial stage: adversarial post-training of a one-step model (SeedVR2, arXiv 2506.05301, section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.diffusion.adversarial import (
    approximated_penalty,
    feature_matching,
    non_saturating_discriminator_loss,
    non_saturating_generator_loss,
    penalty_share,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
    shifted_uniform_times,
)
from models.nadit.discriminator import Discriminator, DiscriminatorOutput
from projects.video_diffusion_sr.lora import LoraSettings
from projects.video_diffusion_sr.training.conditioning import Texts, TrainingPrompts
from projects.video_diffusion_sr.training.latent_stage import LatentStage, PreparedLatents, refuse_other_latents
from projects.video_diffusion_sr.training.settings import OptimizerSettings, one_of
from projects.video_diffusion_sr.training.stage import Player, network_of

if TYPE_CHECKING:
    from projects.video_diffusion_sr.train import VideoDiffusionTrainer, Weights


@dataclass(frozen=True)
class LossWeights:
    """Loss weights. `gan`, `l1`, `features` belong to the generator; `r1`, `r2` to the discriminator's penalties."""

    gan: float = 1.0
    l1: float = 0.1
    features: float = 0.1
    r1: float = 1000.0
    r2: float = 1000.0


@dataclass(frozen=True)
class AdversarialSettings:
    """The section `adversarial` of a training YAML.

    loss: "rpgan" (SeedVR2: compares each generated sample with the real sample of the same condition) or "ns" (APT:
        non-saturating; APT has no penalty on generated samples, so set r2 to 0).
    taps: numbers (from 1) of the blocks after which the discriminator has heads; null: the paper's relative depths.
    discriminator_init: the initial weights of its backbone: "diffusion" (before distillation, as in the papers),
        "distilled" (those of the generator) or "random".
    sigma, image_sigma: standard deviation of the noise in both penalties, for clips and for single frames.
    penalty_values: number of latent values (t h w c) from which a sample gets the full weights r1 and r2; weights of
        smaller samples are proportional (`common.diffusion.adversarial.penalty_share`). null: full weights for all
        sizes, as in the papers, whose samples are 720p.
    image_shift, video_shift: resolution shift of the discriminator's input times, for single frames and for clips.
    generator_every, discriminator_every: the network is updated every so many steps.
    together: run the discriminator's four batches as one, which is faster and needs more memory.
    noise_scale, ema_decay: null takes the model's YAML.
    """

    generator: OptimizerSettings = field(default_factory=OptimizerSettings)
    discriminator: OptimizerSettings = field(default_factory=OptimizerSettings)
    weights: LossWeights = field(default_factory=LossWeights)
    loss: str = "rpgan"
    taps: tuple[int, ...] | None = None
    discriminator_init: str = "diffusion"
    sigma: float = 0.1
    image_sigma: float = 0.01
    penalty_values: float | None = None
    image_shift: float = 1.0
    video_shift: float = 12.0
    generator_every: int = 1
    discriminator_every: int = 1
    together: bool = True
    noise_scale: float | None = None
    ema_decay: float | None = 0.995

    def __post_init__(self) -> None:
        one_of("adversarial.loss", self.loss, ("rpgan", "ns"))
        one_of("adversarial.discriminator_init", self.discriminator_init, ("diffusion", "distilled", "random"))
        if self.penalty_values is not None and not self.penalty_values > 0:
            raise ValueError(f"adversarial.penalty_values must be positive, or null, got {self.penalty_values}")


@dataclass(frozen=True)
class DiscriminatorStart:
    """The initial state of the discriminator's backbone.

    weights: the diffusion model's weights before distillation, read if `discriminator_init` is "diffusion".
    recipe: the settings of another model, for a discriminator larger than the generator; None: the generator's.
    """

    weights: "Weights" = None
    recipe: "VideoDiffusionTrainer | None" = None


class AdversarialStage(LatentStage):
    """Trains a generator x^ = noise - v(noise, condition, T) against a discriminator with the same backbone.

    Args:
        weights: the distilled model's weights, with which the generator starts.
        discriminator: the initial state of the discriminator's backbone.
    """

    name = "adversarial"

    def __init__(
        self,
        recipe: "VideoDiffusionTrainer",
        settings: AdversarialSettings,
        prompts: TrainingPrompts,
        weights: "Weights",
        discriminator: DiscriminatorStart,
        with_vae: bool = True,
        lora: LoraSettings | None = None,
    ) -> None:
        super().__init__(recipe, prompts, settings.noise_scale, 0.0, with_vae)
        if recipe.diffusion.loss != "v_lerp":
            raise ValueError(f"a step from T is noise - v; diffusion.loss.type {recipe.diffusion.loss} is no such v")
        self.settings = settings
        self.modules["dit"], state = recipe.build_dit(weights, lora)
        other_recipe = discriminator.recipe or recipe
        refuse_other_latents(recipe, other_recipe, "discriminator")
        start = {"diffusion": discriminator.weights, "distilled": weights, "random": None}[settings.discriminator_init]
        self.modules["discriminator"], other = other_recipe.build_discriminator(start, settings.taps)
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
        # The discriminator's update has one forward pass of the generator, and a forward and a backward pass of the
        # discriminator for each version. The generator's update has its own forward and backward pass, and of the
        # discriminator two forward passes and a backward pass to its input.
        versions = 2 + (settings.weights.r1 > 0) + (settings.weights.r2 > 0)
        once, other_once = 1 / settings.generator_every, 1 / settings.discriminator_every
        self.forward_passes = {"dit": other_once + 3 * once, "discriminator": 3 * versions * other_once + 3 * once}

    @property
    def discriminator(self) -> Discriminator:
        """The trained discriminator."""
        return network_of(self.modules, "discriminator", Discriminator)

    def units(self, name: str) -> Sequence[nn.Module]:
        if name == "discriminator":
            return list(self.discriminator.backbone.blocks)
        return super().units(name)

    def losses(self, player: str, prepared: PreparedLatents, generator: torch.Generator) -> dict[str, Tensor]:
        if player == "generator":
            return self._generator_losses(prepared, generator)
        return self._discriminator_losses(prepared, generator)

    def generate(self, at: PreparedLatents, generator: torch.Generator) -> Tensor:
        """Latents [L0, c] in one step from noise."""
        noise = self.normal(at.hq, generator)
        start = torch.full((), self.schedule.T, device=self.device)  # created on the device, since a copy would wait
        return noise - self.predict(self.dit, noise, at, start)

    def _times(self, at: PreparedLatents, generator: torch.Generator) -> Tensor:
        settings = self.settings
        frames = at.shapes.size_table[:, 0].float()
        return shifted_uniform_times(frames, settings.image_shift, settings.video_shift, self.schedule.T, generator)

    def _discriminator_losses(self, at: PreparedLatents, generator: torch.Generator) -> dict[str, Tensor]:
        weights, table = self.settings.weights, at.shapes.size_table
        with torch.no_grad():
            fake = self.generate(at, generator)
        sigma = torch.where(table[:, 0] > 1, self.settings.sigma, self.settings.image_sigma).float()
        sigma = at.shapes.per_row(sigma)[:, None]  # L0 1
        versions = {"real": at.hq, "fake": fake}
        if weights.r1 > 0:
            versions["r1"] = at.hq + sigma * self.normal(fake, generator)
        if weights.r2 > 0:
            versions["r2"] = fake + sigma * self.normal(fake, generator)
        logits = dict(zip(versions, self._logits(list(versions.values()), at, generator), strict=True))
        real, generated = logits["real"], logits["fake"]
        of_pair = (
            relativistic_discriminator_loss if self.settings.loss == "rpgan" else non_saturating_discriminator_loss
        )
        losses = {"gan": of_pair(real, generated)}
        share = penalty_share(table.prod(1) * fake.shape[1], self.settings.penalty_values)
        for name, clean in (("r1", real), ("r2", generated)):
            if name in logits:
                losses[name] = approximated_penalty(clean, logits[name], share)
        total = losses["gan"] + sum(getattr(weights, name) * losses[name] for name in ("r1", "r2") if name in losses)
        return losses | {"total": total, "real": real.mean(), "fake": generated.mean()}

    def _generator_losses(self, at: PreparedLatents, generator: torch.Generator) -> dict[str, Tensor]:
        weights = self.settings.weights
        fake = self.generate(at, generator)
        t = self._times(at, generator)
        with torch.no_grad():
            real = self._discriminate([at.hq], at, t)
        generated = self._discriminate([fake], at, t)
        relativistic = self.settings.loss == "rpgan"
        losses = {
            "gan": relativistic_generator_loss(real.logits, generated.logits)
            if relativistic
            else non_saturating_generator_loss(generated.logits),
            "l1": at.shapes.mean((fake - at.hq).abs()),
            "features": self._feature_distance(real, generated, at),
        }
        total = weights.gan * losses["gan"] + weights.l1 * losses["l1"] + weights.features * losses["features"]
        return losses | {"total": total}

    def _logits(self, latents: list[Tensor], at: PreparedLatents, generator: torch.Generator) -> list[Tensor]:
        """Logits [B] for each of several versions of a batch, all at the same random times."""
        t = self._times(at, generator)
        if not self.settings.together:
            return [self._discriminate([x], at, t).logits for x in latents]
        return list(self._discriminate(latents, at, t).logits.chunk(len(latents)))

    def _discriminate(self, latents: list[Tensor], at: PreparedLatents, t: Tensor) -> DiscriminatorOutput:
        """Run the discriminator once on several versions of a batch, concatenated as further samples."""
        count, texts = len(latents), at.texts
        sizes, lengths = at.shapes.sizes * count, texts.lengths * count
        packed = torch.cat([torch.cat([x, at.given], dim=1) for x in latents])
        texts = Texts(texts.tokens.repeat(count, 1), lengths)
        discriminator = self.discriminator
        layout = self.cache.layout(discriminator.backbone, sizes, lengths)
        return discriminator(packed, texts.tokens, sizes, [[n] for n in lengths], t.repeat(count), layout=layout)

    def _feature_distance(
        self, real: DiscriminatorOutput, generated: DiscriminatorOutput, at: PreparedLatents
    ) -> Tensor:
        """The feature matching loss over the tokens of this rank, summed over the ranks that share the clip."""
        discriminator = self.discriminator
        layout = self.cache.layout(discriminator.backbone, at.shapes.sizes, at.texts.lengths)
        weight = self.cache.shapes(layout.grids).row_share  # L, the weight of each token
        weights = [layout.exchange.enter(weight, layout.blocks[tap].partition) for tap in discriminator.taps]
        return layout.exchange.sum(feature_matching(real.features, generated.features, weights), "features")

    def restore(self, prepared: PreparedLatents, generator: torch.Generator) -> Tensor:
        return self.generate(prepared, generator)
