"""What one kind of training is, seen from the loop: networks, players, losses, pictures, and what is exported.

The loop (`training.loop`) knows nothing about diffusion or autoencoders. It moves and shards the networks, asks a stage
for losses, and does the rest: backward, accumulation, clipping, optimisers, averages, checkpoints, logs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from common.distributed.parallel import Parallel
from projects.video_diffusion_sr.training.settings import OptimizerSettings


class NamedBatch(Protocol):
    """A packed batch that knows its samples.

    names: what each sample is, in words for people (file, frame, position): said when a loss is not finite.
    """

    names: Sequence[str]


Batch = list[dict[str, Any]] | NamedBatch  # samples with an `identity` each, as `data.training` makes them, or packed


def names_of(batch: Batch) -> tuple[str, ...]:
    """The identity of every sample."""
    return tuple(sample["identity"] for sample in batch) if isinstance(batch, list) else tuple(batch.names)


class BatchSource:
    """Where batches come from."""

    def batches(self, start: int) -> Iterator[Batch]:
        """This rank's batches number start, start + 1, ...; number n is the same whatever the start."""
        raise NotImplementedError

    def fill(self, number: int) -> float | None:
        """How much of its budget batch `number` takes, in (0, 1]; None where there is no such notion."""
        return None


@dataclass(frozen=True)
class Player:
    """One optimiser and what it moves; most stages have one, adversarial ones a generator and a discriminator.

    Attributes:
        name: what `losses` is asked for.
        modules: names in `Stage.modules` whose trainable parameters it moves. In its turn the other players' networks
            pass gradients through and keep none.
        every: it moves once in so many steps.
        start: and not before this step.
    """

    name: str
    modules: tuple[str, ...]
    optimizer: OptimizerSettings
    every: int = 1
    start: int = 0

    def plays(self, step: int) -> bool:
        """Whether it moves in this step, counted from 0."""
        return step >= self.start and (step - self.start) % self.every == 0


@dataclass(frozen=True)
class Work:
    """How much a batch is: samples, and floating point operations of the whole step (forward and backward)."""

    samples: int = 0
    flops: float = 0.0


class Stage(ABC):
    """One kind of training. Built on the CPU (or on the meta device, see `weights`), then handed to the loop.

    Attributes:
        name: for logs and folders.
        modules: networks with something to train, float32. Only parameters with `requires_grad` are.
        frozen: networks that are only used (a teacher, the VAE); the loop moves them to the device in their own dtype.
        half: names in `frozen` that are kept in bfloat16 where the run computes in it: nothing adds to their weights.
        weights: the state of each module, trained or frozen, that was built on the meta device, by name; read after
            sharding, so that a rank never holds more than its part.
        ema_of: names in `modules` of which an exponential moving average is kept; with its weights in place `images` is
            called, and it is what is exported.
        ema_decay: of that average.
        players: who moves what, in the order of their turns within a step.
        save_frozen: whether checkpoints hold parameters that are not trained; False where they come from a file anyway.
        export_header: words for the header of exported files, and for checkpoints.
        device: where the networks are; the loop sets it through `set_device`.

    Randomness: every method that may draw gets a generator on `device`, seeded by (seed, step, part of the batch, rank,
    purpose), and must use no other: a resumed run then repeats the draws of one that was never stopped.
    Precision: the loop calls `prepare`, `losses` and `images` under autocast to bfloat16 where the run asks for it;
    losses are to be computed in float32 (`x.float()`).
    """

    name: str = "stage"

    def __init__(self) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.frozen: dict[str, nn.Module] = {}
        self.half: tuple[str, ...] = ()
        self.weights: dict[str, Mapping[str, Tensor]] = {}
        self.ema_of: tuple[str, ...] = ()
        self.ema_decay: float = 0.9998
        self.players: tuple[Player, ...] = ()
        self.save_frozen = True
        self.export_header: dict[str, str] = {}
        self.device = torch.device("cpu")

    def set_device(self, device: torch.device) -> None:
        """Where the networks will be; whatever else a stage holds goes there, too."""
        self.device = device

    def share_clips(self, parallel: Parallel) -> None:
        """Let the ranks of a group compute a batch together; called before `set_device`, for groups of several only.

        Every rank of a group is given the same batch and the same draws, and returns the same losses, whose gradients
        lie spread over the group as `common.distributed.adjoint` says.

        Raises:
            ValueError: the stage cannot.
        """
        raise ValueError(f"ranks cannot share a clip in stage {self.name}; set sp_size: 1")

    def units(self, name: str) -> Sequence[nn.Module]:
        """Parts of a module that are sharded (and compiled, if asked for) one by one; default: its `blocks`."""
        module = self.modules.get(name, self.frozen.get(name))
        return list(getattr(module, "blocks", ()))

    def entry_points(self, name: str) -> tuple[str, ...]:
        """Methods of a module, apart from `forward`, that `losses` or `images` call and that need its weights."""
        return ()

    def prepare(self, batch: Batch, generator: torch.Generator) -> Any:
        """What all players share of a batch, made once, without gradients: moved to the device, encoded, noised.

        The default hands the batch on as it is.
        """
        return batch

    @abstractmethod
    def losses(self, player: str, prepared: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by name: `total`, which is minimised, and its parts for the log, detached by the loop.

        Args:
            player: whose turn it is.
            prepared: what `prepare` returned.
        """

    def images(self, prepared: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Pictures for TensorBoard by name, [3, H, W] in [0, 1]; called without gradients, on averaged weights."""
        return {}

    def validate(self, batch: Batch, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """Outputs and ground truths of held-out clips, [3, T, H, W] float32 in about [-1, 1]; as `images` is called.

        Raises:
            NotImplementedError: the stage has no such outputs.
        """
        raise NotImplementedError(f"stage {self.name} has no validation; remove --validation")

    def work(self, prepared: Any) -> Work:
        """For samples/s and model FLOPs utilisation."""
        return Work()

    def export(self, weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """File name (`.safetensors`) -> state, as inference loads it.

        Args:
            weights: full state dict on the CPU by module name, for every name of `ema_of`: its averaged weights.
        """
        return {f"{name}.safetensors": dict(state) for name, state in weights.items()}


@dataclass
class StepRecord:
    """What happened in one step: scalars still on the device, learning rates, and the identities of its samples."""

    step: int
    names: tuple[str, ...]
    scalars: dict[str, Tensor] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
