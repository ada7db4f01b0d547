"""The training YAML (`configs_train/*.yaml`), typed and frozen; unknown keys are refused with a sentence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.strict_settings import settings_from

STAGES = ("vae", "diffusion", "distill", "adversarial")


@dataclass(frozen=True)
class OptimizerSettings:
    """One optimiser and its learning rate over time.

    Attributes:
        name: adamw, adam or rmsprop. The adversarial papers' RMSProp with alpha 0.9 is adam with betas [0, 0.9].
        lr: the highest learning rate.
        warmup: steps of linear growth from 0 to lr.
        schedule: "constant", or "cosine": from lr down to lr * final over the rest of the run.
        clip: upper limit of the gradients' norm; null: no limit.
    """

    name: str = "adamw"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup: int = 0
    schedule: str = "constant"
    final: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        one_of("optimizer.name", self.name, ("adamw", "adam", "rmsprop"))
        one_of("optimizer.schedule", self.schedule, ("constant", "cosine"))
        if not self.lr > 0 or self.warmup < 0 or not 0 <= self.final <= 1:
            raise ValueError("an optimiser needs lr > 0, warmup >= 0 and final in [0, 1]")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"optimizer.clip must be positive, or null for no clipping, got {self.clip}")


@dataclass(frozen=True)
class CheckpointSettings:
    """every: steps between checkpoints. keep: how many of the last are kept.
    asynchronous: training goes on while a checkpoint is written; it takes memory for a second copy on the host."""

    every: int = 1000
    keep: int = 3
    asynchronous: bool = False


@dataclass(frozen=True)
class LogSettings:
    """every: steps between log lines and scalars, at which the loop waits for the device. images: steps between
    pictures (0: none)."""

    every: int = 50
    images: int = 1000


@dataclass(frozen=True)
class BadStepSettings:
    """What to do about a step whose loss or gradient is not finite.

    most: how many steps may be skipped, each after returning to the newest checkpoint; 0 ends the run at the first.
    most_norm: a gradient norm above this counts as bad, too; null: no limit.
    """

    most: int = 0
    most_norm: float | None = None


@dataclass(frozen=True)
class ValidationSettings:
    """Held-out clips (--validation) measured on averaged weights.

    every: steps between measurements; also after the last step. 0: never.
    batches: how many clips: those of so many batches of data.budget_pixels, on all ranks together; always the same
        crops and degradations.
    lpips_weights, dists_weights: safetensors files, see `projects/perceptual_weights.py`; null leaves the measure out.
    """

    every: int = 1000
    batches: int = 2
    lpips_weights: str | None = None
    dists_weights: str | None = None


@dataclass(frozen=True)
class ProfileSettings:
    """A trace of `steps` steps from step `start` on (counted from where this process starts), into `profile/`."""

    start: int = 10
    steps: int = 0


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the loop. The rest of a training YAML belongs to the data or to the stage.

    Attributes:
        seed: of all random numbers.
        steps: of the run (of one round, in progressive distillation).
        accumulation: batches a rank adds up before one step.
        sp_size: number of ranks that share every clip, each with a part of its windows. Such a group trains on one
            batch, so the job has world / sp_size batches at a time.
        precision: "bf16" (float32 masters, bfloat16 compute) or "float32".
        ema_warmup: the average's decay starts low and reaches the model's `ema.decay` over the first steps.
        compile: torch.compile each block, on a GPU; the model's YAML may ask for it as well.
        wandb: name of a Weights & Biases project that gets the scalars as well (`pip install wandb`); null: none.
        graphs: replay updates as CUDA graphs (`training.graphed`), for small networks on one GPU and few batch shapes.
    """

    seed: int = 0
    steps: int = 10000
    accumulation: int = 1
    sp_size: int = 1
    precision: str = "bf16"
    ema_warmup: bool = False
    compile: bool = False
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    log: LogSettings = field(default_factory=LogSettings)
    graphs: bool = False
    bad_steps: BadStepSettings = field(default_factory=BadStepSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    profile: ProfileSettings = field(default_factory=ProfileSettings)
    wandb: str | None = None

    def __post_init__(self) -> None:
        if self.graphs and self.accumulation > 1:
            raise ValueError("graphs: a captured step takes one batch; set accumulation to 1")
        one_of("precision", self.precision, ("bf16", "float32"))
        for name in ("steps", "accumulation", "sp_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def split_settings(
    train: Mapping[str, Any], stage: str
) -> tuple[LoopSettings, Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """The three parts of a training YAML: the loop's, and the sections `data` and of the stage as they stand there."""
    others = [name for name in STAGES if name in train and name != stage]
    if others and stage not in train:
        raise ValueError(f"the training config has a section `{others[0]}`, but the stage is {stage}; use its config")
    loop = {key: value for key, value in train.items() if key not in ("data", *STAGES)}
    return settings_from(LoopSettings, loop, "train."), train.get("data"), train.get(stage)


def one_of(key: str, value: object, allowed: tuple[str, ...]) -> None:
    """ValueError unless the value is one of these."""
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is unknown; choose from {', '.join(allowed)}")
