"""The settings of a training YAML (`configs_train/*.yaml`), typed and frozen; unknown keys are refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.strict_settings import settings_from

STAGES = ("vae", "diffusion", "distill", "adversarial")


@dataclass(frozen=True)
class OptimizerSettings:
    """An optimiser and its learning-rate schedule.

    Attributes:
        name: adamw, adam or rmsprop. RMSProp with alpha 0.9, as in the adversarial papers, is adam with betas [0, 0.9].
        lr: the learning rate after warm-up.
        warmup: number of steps in which the learning rate grows linearly from 0 to lr.
        schedule: "constant", or "cosine", which decreases from lr to lr * final until the end of the run.
        clip: upper limit of the norm of all gradients; null: no limit.
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
    """When checkpoints are written.

    every: number of steps between checkpoints.
    keep: number of newest checkpoints that are kept.
    asynchronous: continue training while a checkpoint is written, which takes memory for a copy on the host.
    """

    every: int = 1000
    keep: int = 3
    asynchronous: bool = False


@dataclass(frozen=True)
class LogSettings:
    """When the loop logs.

    every: number of steps between log lines and scalars; only then the loop waits for the device.
    images: number of steps between pictures; 0: no pictures.
    """

    every: int = 50
    images: int = 1000


@dataclass(frozen=True)
class BadStepSettings:
    """How the loop handles a step whose loss or gradient is not finite.

    most: the largest number of skipped steps, each after a return to the newest checkpoint; 0: the first ends the run.
    most_norm: a step with a larger gradient norm is bad as well; null: no limit.
    """

    most: int = 0
    most_norm: float | None = None


@dataclass(frozen=True)
class ValidationSettings:
    """When and how held-out clips (--validation) are measured, with averaged weights.

    every: number of steps between measurements; 0: never. Clips are also measured after the last step.
    batches: the clips are those of this number of batches of data.budget_pixels, over all ranks. Their crops and
        degradations are always the same.
    lpips_weights, dists_weights: safetensors files, see `projects/perceptual_weights.py`; null: without this measure.
    """

    every: int = 1000
    batches: int = 2
    lpips_weights: str | None = None
    dists_weights: str | None = None


@dataclass(frozen=True)
class ProfileSettings:
    """A profiler trace of `steps` steps from step `start` of this process on, written into `profile/`."""

    start: int = 10
    steps: int = 0


@dataclass(frozen=True)
class LoopSettings:
    """The settings of the loop. The other keys of a training YAML belong to the data or to the stage.

    Attributes:
        seed: the seed of all random numbers.
        steps: number of steps of the run; in distillation, of each round.
        accumulation: number of batches whose gradients a rank sums before an update.
        sp_size: number of ranks that share every clip, each with some of its windows. Such a group trains on one batch,
            so a job trains on world / sp_size batches at a time.
        precision: "bf16" (float32 master weights, bfloat16 computation) or "float32".
        ema_warmup: start with a low EMA decay, which reaches the model's `ema.decay` during the first steps.
        compile: compile each block with torch.compile, on a GPU. The model's YAML can also switch this on.
        wandb: name of a Weights & Biases project that receives the scalars (`pip install wandb`); null: none.
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
    """Split a training YAML into the loop's settings, the section `data` and the section of the stage."""
    others = [name for name in STAGES if name in train and name != stage]
    if others and stage not in train:
        raise ValueError(f"the training config has a section `{others[0]}`, but the stage is {stage}; use its config")
    loop = {key: value for key, value in train.items() if key not in ("data", *STAGES)}
    return settings_from(LoopSettings, loop, "train."), train.get("data"), train.get(stage)


def one_of(key: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is unknown; choose from {', '.join(allowed)}")
