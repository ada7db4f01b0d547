"""The interface of one kind of training: networks, players, losses, pictures, and exported weights.

The loop (`training.loop`) is the same for diffusion models and autoencoders. It moves and shards the networks, calls
the stage for losses, and does the rest: backward passes, accumulation, clipping, optimisers, EMA, checkpoints, logs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from common.distributed.parallel import Parallel
from common.weights.stored import StoredWeight
from projects.video_diffusion_sr.training.settings import OptimizerSettings


class NamedBatch(Protocol):
    """A packed batch with the names of its samples.

    names: file, frame and position of each sample, for the message about a loss that is not finite.
    """

    @property
    def names(self) -> Sequence[str]: ...


Batch = list[dict[str, Any]] | NamedBatch  # samples with an `identity` each, as `data.training` makes them, or packed


N = TypeVar("N", bound=nn.Module)


def network_of(networks: Mapping[str, nn.Module], name: str, kind: type[N]) -> N:
    """A network of `Stage.modules` or `Stage.frozen` by its name, as the class that the stage made it of."""
    network = networks[name]
    assert isinstance(network, kind), f"{name} is a {type(network).__name__}"
    return network


def names_of(batch: Batch) -> tuple[str, ...]:
    """The identity of every sample."""
    return tuple(sample["identity"] for sample in batch) if isinstance(batch, list) else tuple(batch.names)


class BatchSource:
    """Where batches come from."""

    def batches(self, start: int) -> Iterator[Batch]:
        """This rank's batches number start, start + 1, ...; number n is the same whatever the start."""
        raise NotImplementedError

    def fill(self, number: int) -> float | None:
        """The share of its budget that batch `number` uses, in (0, 1]; None for a source without a budget."""
        return None


@dataclass(frozen=True)
class Player:
    """One optimiser and the networks it updates. Most stages have one; adversarial ones have two.

    Attributes:
        name: the argument `player` of `Stage.losses`.
        modules: names in `Stage.modules` whose trainable parameters it updates. During its update the other
            players' networks pass gradients through and keep none.
        every: it is updated every `every` steps.
        start: the first step in which it is updated.
    """

    name: str
    modules: tuple[str, ...]
    optimizer: OptimizerSettings
    every: int = 1
    start: int = 0

    def plays(self, step: int) -> bool:
        """Whether it is updated in this step, counted from 0."""
        return step >= self.start and (step - self.start) % self.every == 0


@dataclass(frozen=True)
class Work:
    """The size of a batch: samples, and floating point operations of the step (forward and backward)."""

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
        players: the optimisers, in the order of their updates within a step.
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
        self.weights: dict[str, Mapping[str, Tensor | StoredWeight]] = {}
        self.ema_of: tuple[str, ...] = ()
        self.ema_decay: float = 0.9998
        self.players: tuple[Player, ...] = ()
        self.save_frozen = True
        self.export_header: dict[str, str] = {}
        self.device = torch.device("cpu")

    def set_device(self, device: torch.device) -> None:
        """Set the device of the networks, and move whatever else the stage holds there."""
        self.device = device

    def share_clips(self, parallel: Parallel) -> None:
        """Let the ranks of a group compute a batch together; called before `set_device`, for groups of several only.

        Every rank of a group is given the same batch and the same draws, and returns the same losses, whose gradients
        lie spread over the group as `common.distributed.adjoint` says.

        Raises:
            ValueError: the stage does not support it.
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
        """The part of the work on a batch that all players share, without gradients: to the device, encoded, noised.

        The default returns the batch unchanged.
        """
        return batch

    @abstractmethod
    def losses(self, player: str, prepared: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by name: `total`, which is minimised, and its parts for the log, detached by the loop.

        Args:
            player: the one that is updated.
            prepared: what `prepare` returned.
        """

    def images(self, prepared: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Pictures for TensorBoard by name, [3, H, W] in [0, 1]; called without gradients, on averaged weights."""
        return {}

    def validate(self, batch: Batch, generator: torch.Generator, decode: bool = True) -> list[tuple[Tensor, Tensor]]:
        """Outputs and ground truths of held-out clips, [3, T, H, W] float32 in about [-1, 1]; as `images` is called.

        Args:
            decode: False: only take part in what all ranks compute together (gathered weights, shared clips), and
                return nothing.

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
    """Results of one step: scalars, still on the device, learning rates, and the identities of its samples."""

    step: int
    names: tuple[str, ...]
    scalars: dict[str, Tensor] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
