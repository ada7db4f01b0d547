"""All tensors that a resumed run needs, by name. Random generators are not among them: they follow from the step."""

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
    """The tensors that change from step to step.

    modules, emas: by module name. optimizers: by player. parameters: (name, parameter) of each player.
    frozen: whether to include parameters that no player updates.
    """

    modules: Mapping[str, nn.Module]
    emas: Mapping[str, ExponentialMovingAverage]
    optimizers: Mapping[str, torch.optim.Optimizer]
    parameters: Mapping[str, list[tuple[str, nn.Parameter]]]
    frozen: bool = True

    def tensors(self) -> dict[str, Tensor]:
        """The tensors themselves by name, so that loading writes into them."""
        tensors = {}
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
        """Fill everything from a checkpoint that any number of ranks wrote; the optimisers have not stepped yet."""
        saved = saved_shapes(checkpoint)
        refuse_other_shapes(checkpoint, saved, self.tensors())  # of the networks, before their optimisers' state
        for player, optimizer in self.optimizers.items():
            allocate_optimizer_state(optimizer, self._names(player), saved)
        load_checkpoint(checkpoint, self.tensors())

    def _names(self, player: str) -> dict[nn.Parameter, str]:
        return {parameter: f"optimizer/{player}/{key}" for key, parameter in self.parameters[player]}


def refuse_other_run(checkpoint: Path, meta: Mapping[str, Any], stage: str, seed: int) -> None:
    """ValueError unless the checkpoint's run is of this stage and seed."""
    if "stage" not in meta or "seed" not in meta:
        raise DamagedCheckpoint(f"{checkpoint} does not say of which stage and seed it is")
    if meta["stage"] != stage:
        raise ValueError(f"{checkpoint} is of stage {meta['stage']}, not {stage}; use another --output")
    if meta["seed"] != seed:
        raise ValueError(f"{checkpoint} was drawn with seed {meta['seed']}; resume with it, or use another --output")
