"""A training run on random weights and random latents of the real shapes, for which no files are needed."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from common.strict_settings import settings_from
from models.nadit.discriminator import Discriminator
from models.nadit.model import NaDiT
from projects.video_diffusion_sr.build import drawn_weight, seeded_prompts
from projects.video_diffusion_sr.communication import TEXT_TOKENS
from projects.video_diffusion_sr.lora import LoraSettings
from projects.video_diffusion_sr.train import VideoDiffusionTrainer, Weights
from projects.video_diffusion_sr.training.adversarial import AdversarialSettings, AdversarialStage, DiscriminatorStart
from projects.video_diffusion_sr.training.conditioning import TrainingPrompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.distill import DistillRound, DistillSettings, DistillStage
from projects.video_diffusion_sr.training.latent_stage import LatentStage
from projects.video_diffusion_sr.training.latents import PosteriorBatch
from projects.video_diffusion_sr.training.packed import Size3
from projects.video_diffusion_sr.training.stage import BatchSource

SHARPNESS = -10.0  # log variance of the latents' posterior


class DrawnState(Mapping[str, Tensor]):
    """A state dict of random values for a network on the meta device; each is drawn on `device` when it is read.

    A tensor's name determines its values, so all ranks read the same values, and no rank stores more than one tensor.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        self.device = device

    def __getitem__(self, name: str) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(zlib.crc32(name.encode()))
        return drawn_weight(name, self.shapes[name], generator)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class RandomRecipe(VideoDiffusionTrainer):
    """The trainer of a model with random weights, whatever file is named.

    Args:
        config: a model's `main.yaml`.
        device: device on which weights are drawn.
    """

    def __init__(self, config: DictConfig, device: torch.device) -> None:
        super().__init__(config)
        self.device = device

    def build_dit(self, weights: Weights = None, lora: LoraSettings | None = None) -> tuple[NaDiT, DrawnState]:
        with torch.device("meta"):
            dit, _ = super().build_dit()
        return dit, DrawnState(dit, self.device)

    def build_discriminator(
        self, weights: Weights = None, taps: Sequence[int] | None = None
    ) -> tuple[Discriminator, DrawnState]:
        backbone, _ = self.build_dit()
        with torch.device("meta"):
            discriminator = Discriminator(backbone, taps)
        return discriminator, DrawnState(discriminator, self.device)


class RandomLatents(BatchSource):
    """A source that repeats one batch of random latents of the given sizes (t, h, w)."""

    def __init__(self, sizes: Sequence[Size3], channels: int, device: torch.device) -> None:
        rows = sum(t * h * w for t, h, w in sizes)
        generator = torch.Generator(device).manual_seed(0)
        hq, lq = (torch.randn(rows, channels, device=device, generator=generator) for _ in range(2))
        sharp = torch.full_like(hq, SHARPNESS)
        self.batch = PosteriorBatch(hq, sharp, lq, sharp, tuple(sizes), tuple(f"random {size}" for size in sizes))

    def batches(self, start: int) -> Iterator[PosteriorBatch]:
        while True:
            yield self.batch


def random_stage(kind: str, recipe: RandomRecipe, section: Mapping[str, Any] | None) -> LatentStage:
    """Make a stage on random weights.

    Args:
        kind: "diffusion", "distill" or "adversarial". For "distill" it is the last round, without guidance.
        section: the stage's section of a training YAML.
    """
    width = recipe.config.dit.model.txt_in_dim
    prompts, where = TrainingPrompts(*seeded_prompts(width, TEXT_TOKENS)), f"train.{kind}."
    if kind == "diffusion":
        diffusion = settings_from(DiffusionStageSettings, section, where)
        return DiffusionStage(recipe, diffusion, prompts, weights=None, with_vae=False)
    if kind == "distill":
        distill = settings_from(DistillSettings, section, where)
        last_round = DistillRound(distill.rounds[-1], guided=False)
        return DistillStage(recipe, distill, prompts, weights=None, this_round=last_round, with_vae=False)
    adversarial = settings_from(AdversarialSettings, section, where)
    return AdversarialStage(recipe, adversarial, prompts, None, DiscriminatorStart(), with_vae=False)
