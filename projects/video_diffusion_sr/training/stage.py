"""The interface of a training stage: its networks, optimisers ("players"), losses, pictures and exported weights.

The loop (`training.loop`) is the same for diffusion models and autoencoders. It moves and shards the networks, asks the
stage for losses, and does backward passes, accumulation, clipping, optimiser steps, EMA, checkpoints and logs.
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

    names: file, frame and position of each sample, for error messages about a loss that is not finite.
    """

    @property
    def names(self) -> Sequence[str]: ...


Batch = list[dict[str, Any]] | NamedBatch  # samples of `data.training`, each with an `identity`, or a packed batch


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
    """A source of batches, which a run can read from any batch on."""

    def batches(self, start: int) -> Iterator[Batch]:
        """Yield this rank's batches number start, start + 1, ... Batch n does not depend on the start."""
        raise NotImplementedError

    def fill(self, number: int) -> float | None:
        """Return which fraction of the budget batch `number` uses, in (0, 1]; None if there is no budget."""
        return None


@dataclass(frozen=True)
class Player:
    """One optimiser and the networks that it updates. Most stages have one player; adversarial stages have two.

    Attributes:
        name: the value of the argument `player` of `Stage.losses`.
        modules: names in `Stage.modules` of the networks whose trainable parameters it updates. Meanwhile gradients
            pass through the other players' networks, but their parameters get none.
        every: number of steps from one update to the next.
        start: the first step with an update.
    """

    name: str
    modules: tuple[str, ...]
    optimizer: OptimizerSettings
    every: int = 1
    start: int = 0

    def plays(self, step: int) -> bool:
        """Whether the player is updated in this step, counted from 0."""
        return step >= self.start and (step - self.start) % self.every == 0


@dataclass(frozen=True)
class Work:
    """The work of a batch: number of samples, and floating point operations (forward and backward)."""

    samples: int = 0
    flops: float = 0.0


class Stage(ABC):
    """A training stage. It is built on the CPU (or on the meta device, see `weights`) and then passed to the loop.

    Attributes:
        name: the name in logs and folders.
        modules: the trained networks, float32. Only parameters with `requires_grad` are trained.
        frozen: networks without training (a teacher, the VAE). The loop moves them to the device and keeps their dtype.
        half: names in `frozen` of networks that are converted to bfloat16 if the run computes in bfloat16.
        weights: by name, the state of each network in `modules` or `frozen` that was built on the meta device. It is
            read after sharding, so a rank never holds more than its shard.
        ema_of: names in `modules` of networks with an exponential moving average. `images` and `validate` are called
            with the averaged weights, and these are exported.
        ema_decay: the decay of the average.
        players: the optimisers, in the order of their updates within a step.
        save_frozen: whether checkpoints contain parameters that are not trained; False if a file already has them.
        export_header: entries for the header of exported files and checkpoints.
        device: the device of the networks, set by the loop with `set_device`.

    Randomness: every method that draws random numbers gets a generator on `device`, seeded by (seed, step, part of the
    batch, rank, purpose), and must use only this one. A resumed run then repeats the draws of an uninterrupted one.
    Precision: the loop calls `prepare`, `losses` and `images` under autocast to bfloat16 if the run computes in it.
    Compute losses in float32 (`x.float()`).
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
        """Set the device of the networks, and move all other tensors of the stage to it."""
        self.device = device

    def share_clips(self, parallel: Parallel) -> None:
        """Make the ranks of a group share each batch. Called before `set_device`, if a group has several ranks.

        All ranks of a group get the same batch and the same random draws, and return the same losses. The gradients
        are distributed over the group as `common.distributed.adjoint` describes.

        Raises:
            ValueError: the stage does not support it.
        """
        raise ValueError(f"ranks cannot share a clip in stage {self.name}; set sp_size: 1")

    def units(self, name: str) -> Sequence[nn.Module]:
        """The submodules that are sharded, and compiled if requested, one by one. The default is the `blocks`."""
        module = self.modules.get(name, self.frozen.get(name))
        return list(getattr(module, "blocks", ()))

    def entry_points(self, name: str) -> tuple[str, ...]:
        """The methods apart from `forward` that use the weights of a module and that `losses` or `images` call."""
        return ()

    def prepare(self, batch: Batch, generator: torch.Generator) -> Any:
        """Prepare a batch for all players, without gradients: move it to the device, encode it, add noise.

        The default returns the batch unchanged.
        """
        return batch

    @abstractmethod
    def losses(self, player: str, prepared: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of a batch: `total`, which is minimised, and other scalars for the log, which the loop detaches.

        Args:
            player: the name of the player that is updated.
            prepared: the result of `prepare`.
        """

    def images(self, prepared: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Pictures for TensorBoard by name, [3, H, W] in [0, 1]; called without gradients, with averaged weights."""
        return {}

    def validate(self, batch: Batch, generator: torch.Generator, decode: bool = True) -> list[tuple[Tensor, Tensor]]:
        """Restore held-out clips: pairs (output, ground truth), [3, T, H, W] float32 in about [-1, 1].

        It is called without gradients, with averaged weights.

        Args:
            decode: if False, only take part in collective operations (gathering weights, shared clips), and return an
                empty list.

        Raises:
            NotImplementedError: the stage has no such outputs.
        """
        raise NotImplementedError(f"stage {self.name} has no validation; remove --validation")

    def work(self, prepared: Any) -> Work:
        """The work of a batch, for samples/s and model FLOPs utilisation."""
        return Work()

    def export(self, weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """The files to export: file name (`.safetensors`) -> state dict, as inference loads it.

        Args:
            weights: for every name in `ema_of`, the full state dict with averaged weights, on the CPU.
        """
        return {f"{name}.safetensors": dict(state) for name, state in weights.items()}


@dataclass
class StepRecord:
    """The results of one step: scalars on the device, learning rates, and the identities of its samples."""

    step: int
    names: tuple[str, ...]
    scalars: dict[str, Tensor] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
