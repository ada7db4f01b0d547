"""Updates one player in a step: losses, gradients over all parts of the batch, clipping, optimiser step."""

import hashlib
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.distributed import fsdp
from common.distributed.process import Process
from projects.video_diffusion_sr.training.graphed import GraphedUpdates
from projects.video_diffusion_sr.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from projects.video_diffusion_sr.training.placement import named_parameters
from projects.video_diffusion_sr.training.settings import LoopSettings
from projects.video_diffusion_sr.training.stage import Player, Stage


class PlayerUpdates:
    """The optimisers of a stage's players.

    Args:
        stage: the stage; its networks are already on the device and sharded.
        settings: the settings of the loop.
        process: this rank.
    """

    def __init__(self, stage: Stage, settings: LoopSettings, process: Process) -> None:
        self.stage, self.process, self.device = stage, process, process.device
        self.seed, self.bf16, self.sp_size = settings.seed, settings.precision == "bf16", settings.sp_size
        self.parameters = named_parameters(stage)
        self.optimizers = {
            p.name: make_optimizer((w for _, w in self.parameters[p.name]), p.optimizer, settings.graphs)
            for p in stage.players
        }
        self.graphed = self._graphed_updates() if settings.graphs else None
        self._moved: set[str] = set()  # players

    def clear(self) -> None:
        """Delete the optimisers' state and captured updates, before a checkpoint is loaded in the middle of a run."""
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        if self.graphed is not None:
            self.graphed = self._graphed_updates()

    def _graphed_updates(self) -> dict[str, GraphedUpdates]:
        if self.device.type != "cuda" or self.process.world > 1:
            found = f"{self.process.world} x {self.device.type}"
            raise ValueError(f"graphs: a captured update needs one GPU, not {found}; set graphs to False")
        return {
            player.name: GraphedUpdates(
                partial(self._update_once, player),
                [parameter for _, parameter in self.parameters[player.name]],
                self.device,
            )
            for player in self.stage.players
        }

    def play(self, player: Player, step: int, steps: int, prepared: list[Any]) -> tuple[dict[str, Tensor], float]:
        """Compute the gradients of one player and do its optimiser step.

        Args:
            step, steps: the number of this step, from 0, and the number of steps of the run.
            prepared: all parts of the step's batch.

        Returns:
            mean losses and the gradient norm, on the device; the learning rate.
        """
        rate = learning_rate(player.optimizer, step, steps)
        set_learning_rate(self.optimizers[player.name], rate)
        self._pass_through_others(player)
        if self.graphed is not None:
            scalars = self.graphed[player.name](prepared[0], self._seed(step, 0, player.name))
        else:
            generators = [self.generator(step, micro_batch, player.name) for micro_batch in range(len(prepared))]
            scalars = self._update(player, prepared, generators)
            for module in self.stage.modules.values():  # also those of networks that gradients only passed through
                module.zero_grad(set_to_none=True)
        return scalars, rate

    def _update_once(self, player: Player, prepared: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """`_update` of a step of one part."""
        return self._update(player, [prepared], [generator])

    def _update(self, player: Player, prepared: list[Any], generators: list[torch.Generator]) -> dict[str, Tensor]:
        """Sum the gradients over all parts of the step, and do the optimiser step. Returns mean losses and the norm."""
        scalars: dict[str, Tensor] = {}
        for item, generator in zip(prepared, generators, strict=True):
            with self.autocast():
                losses = self.stage.losses(player.name, item, generator)
            (losses["total"] / len(prepared)).backward()
            for name, value in losses.items():
                value = value.detach()
                mean = value if len(prepared) == 1 else value / len(prepared)  # saves a kernel launch
                scalars[name] = scalars[name] + mean if name in scalars else mean
        for module in self.stage.modules.values():
            fsdp.reshard(module)
        parameters = [parameter for _, parameter in self.parameters[player.name]]
        fsdp.average_gradients(parameters)
        scalars["gradient_norm"] = self._clip(player, parameters)
        self.optimizers[player.name].step()
        return scalars

    def _pass_through_others(self, player: Player) -> None:
        """Switch off gradients for the weights of the other players' networks.

        FSDP fixes the dtype of its gradient reduction at first use, from the weights that require gradients. The
        weights of a sharded network therefore require gradients until its player has been updated once.
        """
        for other in self.stage.players if len(self.stage.players) > 1 else ():
            updated = other.name == player.name
            sharded = any(fsdp.is_sharded(self.stage.modules[name]) for name in other.modules)
            if updated or other.name in self._moved or not sharded:
                for _, parameter in self.parameters[other.name]:
                    parameter.requires_grad_(updated)
        self._moved.add(player.name)

    @staticmethod
    def _clip(player: Player, parameters: list[nn.Parameter]) -> Tensor:
        """Clip the gradients to the player's limit. Returns their norm before clipping."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            raise ValueError(f"no gradient reached player {player.name}: its loss does not depend on its networks")
        norm = fsdp.gather_full(torch.nn.utils.get_total_norm(gradients))
        if player.optimizer.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, player.optimizer.clip, norm)
        return norm

    def autocast(self) -> AbstractContextManager[object]:
        """A context with the autocast precision of the run."""
        if not self.bf16:
            return nullcontext()
        # A captured update must not reuse casts of weights from an earlier one.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=self.graphed is None)

    def generator(self, step: int, micro_batch: int, purpose: str) -> torch.Generator:
        """A generator on the device, seeded for one purpose in one part of one step on this rank."""
        return torch.Generator(self.device).manual_seed(self._seed(step, micro_batch, purpose))

    def _seed(self, step: int, micro_batch: int, purpose: str) -> int:
        group, _ = self.process.group(self.sp_size)  # ranks that share a clip draw the same numbers
        words = f"{self.seed}/{step}/{micro_batch}/{group}/{purpose}"
        return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
