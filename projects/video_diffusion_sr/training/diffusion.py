"""The diffusion stage: flow matching on latents (SeedVR, arXiv 2501.01320, section 3.3)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from projects.video_diffusion_sr.lora import LoraSettings
from projects.video_diffusion_sr.training.conditioning import TrainingPrompts
from projects.video_diffusion_sr.training.latent_stage import LatentStage, PreparedLatents
from projects.video_diffusion_sr.training.settings import OptimizerSettings
from projects.video_diffusion_sr.training.stage import Player
from projects.video_diffusion_sr.training.tiny.linear_decoder import DecoderMetric

if TYPE_CHECKING:
    from projects.video_diffusion_sr.train import VideoDiffusionTrainer, Weights


FROM_SCRATCH_DROPOUT = 0.1  # our choice: the papers drop prompts as SD3 does, but do not state the rate


@dataclass(frozen=True)
class DiffusionStageSettings:
    """The section `diffusion` of a training YAML.

    prompt_dropout: the fraction of clips whose text is replaced by the null text, which guidance needs. null: 0 if
        trained weights are fine-tuned, 0.1 if training starts from random weights. The released models use a negative
        text in guidance; dropout with that text would teach the model to make good pictures from it.
    noise_scale, ema_decay: null takes the value in the model's YAML.
    log_floor: null: the loss is the mean squared error. A number f: the loss is the mean over clips of
        log(squared error + f), which is their mean PSNR up to a factor; errors far below f are ignored. For one-step
        models: every clip then counts by its relative error, whereas the squared error is dominated by hard clips.
    image_steps: number of Euler steps for the pictures in TensorBoard and for validation.
    """

    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    prompt_dropout: float | None = None
    noise_scale: float | None = None
    ema_decay: float | None = None
    log_floor: float | None = None
    image_steps: int = 8


class DiffusionStage(LatentStage):
    """Trains a transformer to predict the velocity, at a random time for each clip.

    Args:
        metric: weights latent errors by their effect on pixels; None: all channels have the same weight.
    """

    name = "diffusion"

    def __init__(
        self,
        recipe: "VideoDiffusionTrainer",
        settings: DiffusionStageSettings,
        prompts: TrainingPrompts,
        weights: "Weights",
        with_vae: bool = True,
        lora: LoraSettings | None = None,
        metric: DecoderMetric | None = None,
    ) -> None:
        dropout = settings.prompt_dropout
        if dropout is None:
            dropout = FROM_SCRATCH_DROPOUT if weights is None else 0.0
        super().__init__(recipe, prompts, settings.noise_scale, dropout, with_vae)
        self.settings, self.metric = settings, metric
        self.modules["dit"], state = recipe.build_dit(weights, lora)
        if state is not None:
            self.weights["dit"] = state
        if lora is not None:
            self.use_lora(lora)
        self.ema_of = ("dit",)
        self.ema_decay = recipe.ema_decay if settings.ema_decay is None else settings.ema_decay
        self.players = (Player("dit", ("dit",), settings.optimizer),)

    def set_device(self, device: torch.device) -> None:
        super().set_device(device)
        self.metric = None if self.metric is None else self.metric.to(device)

    def losses(self, player: str, prepared: PreparedLatents, generator: torch.Generator) -> dict[str, Tensor]:
        shapes, diffusion = prepared.shapes, self.recipe.diffusion
        t = diffusion.training.sample(len(shapes.sizes), generator, self.device)
        t = self.conditioner.shifted(t, shapes)  # B
        noise = self.normal(prepared.hq, generator)
        t_of_row = shapes.per_row(t)
        x_t = self.schedule.forward(prepared.hq, noise, t_of_row)  # L0 c
        wanted = self.schedule.convert_to_pred(prepared.hq, noise, t_of_row, diffusion.loss)
        predicted = self.predict(self.dit, x_t, prepared, t)
        error = predicted - wanted
        squared = (error if self.metric is None else self.metric(error, shapes.frame_of_row)).square()
        if self.settings.log_floor is None:
            return {"total": shapes.mean(squared)}
        return {
            "total": (shapes.sample_means(squared) + self.settings.log_floor).log().mean(),
            "squared": shapes.mean(squared.detach()),
        }

    def restore(self, prepared: PreparedLatents, generator: torch.Generator) -> Tensor:
        steps, guidance = self.settings.image_steps, self.recipe.diffusion.guidance
        return self.sample(self.dit, prepared, steps, guidance, generator)
