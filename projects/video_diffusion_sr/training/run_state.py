"""All tensors that a resumed run needs, by name. Random generators are seeded by the step and need not be stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.distributed.checkpoint import (
    allocate_optimizer_state,
    load_checkpoint,
    optimizer_tensors,
    refuse_other_shapes,
    saved_shapes,
)
from common.distributed.metadata import DamagedCheckpoint
from projects.video_diffusion_sr.training.ema import ExponentialMovingAverage


@dataclass(frozen=True)
class RunState:
    """The tensors that change during training.

    modules, emas: networks and averages, by module name.
    optimizers: optimisers, by player name.
    parameters: (name, parameter) of everything that each player updates.
    frozen: whether to include parameters that no player updates.
    """

    modules: Mapping[str, nn.Module]
    emas: Mapping[str, ExponentialMovingAverage]
    optimizers: Mapping[str, torch.optim.Optimizer]
    parameters: Mapping[str, list[tuple[str, nn.Parameter]]]
    frozen: bool = True

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name. They are not copies, so loading into them changes the networks."""
        tensors: dict[str, Tensor] = {}
        moved = {key for named in self.parameters.values() for key, _ in named}
        for name, module in self.modules.items():
            whole = {f"{name}.{key}": value for key, value in module.state_dict().items()}
            tensors |= {f"modules/{key}": value for key, value in whole.items() if self.frozen or key in moved}
        for name, ema in self.emas.items():
            tensors |= {f"ema/{name}.{key}": value for key, value in ema.average.items()}
        for player, optimizer in self.optimizers.items():
            tensors |= optimizer_tensors(optimizer, self._names(player))
        return tensors

    def load(self, checkpoint: str | Path) -> None:
        """Load a checkpoint, written by any number of ranks, into tensors of a run that has not done a step."""
        saved = saved_shapes(checkpoint)
        refuse_other_shapes(checkpoint, saved, self.tensors())  # of the networks, before their optimisers' state
        for player, optimizer in self.optimizers.items():
            allocate_optimizer_state(optimizer, self._names(player), saved)
        load_checkpoint(checkpoint, self.tensors())

    def _names(self, player: str) -> dict[Tensor, str]:
        return {parameter: f"optimizer/{player}/{key}" for key, parameter in self.parameters[player]}


def refuse_other_run(checkpoint: Path, meta: Mapping[str, Any], stage: str, seed: int) -> None:
    """Raise ValueError if the checkpoint belongs to another stage or seed."""
    if "stage" not in meta or "seed" not in meta:
        raise DamagedCheckpoint(f"{checkpoint} does not say of which stage and seed it is")
    if meta["stage"] != stage:
        raise ValueError(f"{checkpoint} is of stage {meta['stage']}, not {stage}; use another --output")
    if meta["seed"] != seed:
        raise ValueError(f"{checkpoint} was drawn with seed {meta['seed']}; resume with it, or use another --output")
