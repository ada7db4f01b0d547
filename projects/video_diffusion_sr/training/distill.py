"""The distillation stage: in each round a student learns to do in one Euler step what its teacher does in two.

As in SeedVR2 (arXiv 2506.05301), the number of steps is halved from 64 to one, only the first round uses guidance, and
the loss is the mean squared error of the velocity. A round's teacher is the averaged student of the previous round.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.diffusion import Guidance, LinearInterpolation, uniform_trailing
from models.nadit.model import NaDiT
from projects.video_diffusion_sr.training.conditioning import TrainingPrompts
from projects.video_diffusion_sr.training.latent_stage import LatentStage, PreparedLatents, refuse_other_latents
from projects.video_diffusion_sr.training.packed import Shapes
from projects.video_diffusion_sr.training.settings import OptimizerSettings, one_of
from projects.video_diffusion_sr.training.stage import Player, network_of

if TYPE_CHECKING:
    from projects.video_diffusion_sr.train import VideoDiffusionTrainer, Weights


@dataclass(frozen=True)
class DistillSettings:
    """The section `distill` of a training YAML.

    rounds: the number of student steps in each round, each half of the one before.
    guidance: guidance scale of the first round's teacher; null takes the scale in the model's YAML.
    guidance_against: the unconditional text: "negative", as for the released models, or "null_text", for models that
        were trained with prompt dropout.
    noise_scale, ema_decay: null takes the value in the model's YAML.
    """

    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    rounds: tuple[int, ...] = (32, 16, 8, 4, 2, 1)
    guidance: float | None = None
    guidance_against: str = "negative"
    noise_scale: float | None = None
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        one_of("distill.guidance_against", self.guidance_against, ("negative", "null_text"))
        halving = all(a == 2 * b for a, b in zip(self.rounds, self.rounds[1:], strict=False))
        if not self.rounds or self.rounds[-1] < 1 or not halving:
            raise ValueError(f"distill.rounds must halve from one to the next, got {list(self.rounds)}")


@dataclass(frozen=True)
class DistillRound:
    """One round of progressive distillation.

    steps: number of Euler steps of the student; its teacher takes twice as many.
    guided: whether the teacher uses guidance, as in the first round.
    """

    steps: int
    guided: bool


class DistillStage(LatentStage):
    """One round: the student learns the velocity of a step that ends where two steps of the teacher end.

    Args:
        weights: the weights of the teacher, which are also the student's initial weights.
        teacher: settings and weights of another model, for a teacher larger than the student.
    """

    name = "distill"

    def __init__(
        self,
        recipe: "VideoDiffusionTrainer",
        settings: DistillSettings,
        prompts: TrainingPrompts,
        weights: "Weights",
        this_round: DistillRound,
        with_vae: bool = True,
        teacher: "tuple[VideoDiffusionTrainer, Weights] | None" = None,
    ) -> None:
        super().__init__(recipe, prompts, settings.noise_scale, 0.0, with_vae)
        if recipe.diffusion.loss != "v_lerp":
            raise ValueError(f"distillation matches velocities; diffusion.loss.type {recipe.diffusion.loss} is none")
        self.steps = this_round.steps
        self.name = f"distill_{self.steps}"
        self.modules["dit"], state = recipe.build_dit(weights)
        teachers_recipe, teachers_weights = (recipe, weights) if teacher is None else teacher
        refuse_other_latents(recipe, teachers_recipe, "teacher")
        self.frozen["teacher"], teachers_state = teachers_recipe.build_dit(teachers_weights)
        self.half = ("teacher",)
        self.weights |= {n: s for n, s in (("dit", state), ("teacher", teachers_state)) if s is not None}
        self.ema_of = ("dit",)
        self.ema_decay = recipe.ema_decay if settings.ema_decay is None else settings.ema_decay
        self.players = (Player("dit", ("dit",), settings.optimizer),)
        configured = recipe.diffusion.guidance
        scale = configured.scale if settings.guidance is None else settings.guidance
        self.guidance = Guidance(scale if this_round.guided else 1.0, configured.rescale)
        self.other_text = settings.guidance_against
        self.forward_passes = {"dit": 3.0, "teacher": 4.0 if self.guidance.scale != 1 else 2.0}
        # from T to 0; the student uses every second of these times
        times = uniform_trailing(2 * self.steps, self.schedule.T, recipe.diffusion.shift)
        self.times = torch.cat([times, torch.zeros(1)])

    def set_device(self, device: torch.device) -> None:
        super().set_device(device)
        self.times = self.times.to(device)

    def losses(self, player: str, prepared: PreparedLatents, generator: torch.Generator) -> dict[str, Tensor]:
        shapes = prepared.shapes
        number = torch.randint(self.steps, (len(shapes.sizes),), generator=generator, device=self.device)
        t, middle, end = (self.times[2 * number + i] for i in range(3))  # B each
        x_t = self.schedule.forward(prepared.hq, self.normal(prepared.hq, generator), shapes.per_row(t))
        with torch.no_grad():
            teacher = network_of(self.frozen, "teacher", NaDiT)
            wanted = two_step_velocity(
                lambda x, at: self._guided(teacher, x, prepared, at), x_t, t, middle, end, self.schedule, shapes
            )
        predicted = self.predict(self.dit, x_t, prepared, t)
        return {"total": shapes.mean((predicted - wanted).square())}

    def _guided(self, dit: NaDiT, x: Tensor, at: PreparedLatents, t: Tensor) -> Tensor:
        negative = self.unguided(len(at.shapes.sizes))
        return self.guidance.predict(
            lambda: self.predict(dit, x, at, t), lambda: self.predict(dit, x, at, t, negative), 0, 1, None
        )

    def restore(self, prepared: PreparedLatents, generator: torch.Generator) -> Tensor:
        return self.sample(self.dit, prepared, self.steps, Guidance(), generator)


def two_step_velocity(
    teacher: Callable[[Tensor, Tensor], Tensor],
    x_t: Tensor,
    t: Tensor,
    middle: Tensor,
    end: Tensor,
    schedule: LinearInterpolation,
    shapes: Shapes,
) -> Tensor:
    """The velocity of an Euler step from t to `end` that ends where two steps of the teacher end: [L0, c].

    Args:
        teacher: a function (x [L0, c], times [B]) -> velocity [L0, c].
        x_t: [L0, c], the noisy latents at times t.
        t, middle, end: [B], decreasing times of each sample.
    """
    T = schedule.T
    x = x_t - shapes.per_row((t - middle) / T)[:, None] * teacher(x_t, t)
    x = x - shapes.per_row((middle - end) / T)[:, None] * teacher(x, middle)
    return (x_t - x) / shapes.per_row((t - end) / T)[:, None]
