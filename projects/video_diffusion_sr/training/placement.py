"""Moves the networks of a stage to the device: shards them, loads weights, sets dtypes and compiles."""

from collections.abc import Sequence

import torch
from torch import nn

from common.distributed import fsdp
from common.logger import get_logger
from projects.video_diffusion_sr.training.stage import Stage

logger = get_logger(__name__)

VARIANTS = 128  # compiled versions of one block


def place_networks(stage: Stage, strategy: str, device: torch.device, *, bf16: bool, compiled: bool) -> None:
    """Shard every network of a stage, move it to the device, and load `Stage.weights` into networks on the meta device.

    Args:
        strategy: `dit.fsdp.sharding_strategy`.
        bf16: compute in bfloat16, and keep the weights of the networks in `Stage.half` in bfloat16.
        compiled: torch.compile each unit, on CUDA only.
    """
    mesh = fsdp.training_mesh(strategy, device.type)
    if compiled and device.type != "cuda":
        logger.info("compile: nothing is compiled on %s; it pays on a GPU only", device.type)
        compiled = False
    for name, module in {**stage.modules, **stage.frozen}.items():
        trained = name in stage.modules
        module.train(trained)
        if not trained:
            module.requires_grad_(False)
        if bf16 and name in stage.half:
            halve(module)
        units = stage.units(name)
        # A frozen network without blocks (the VAE) is much smaller than the trained ones and is not sharded.
        if trained or units:
            fsdp.shard(module, units, strategy, mesh, bf16=bf16, entry_points=stage.entry_points(name))
        fsdp.place(module, device, stage.weights.pop(name, None))
        if mesh is None:
            fsdp.same_on_all_ranks(module)
        if compiled:
            compile_units(units)


def halve(module: nn.Module) -> None:
    """Convert parameters to bfloat16. Buffers keep float32, which rotary tables need."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def compile_units(units: Sequence[nn.Module]) -> None:
    """Compile each unit with torch.compile for static shapes. Blocks of one kind share compiled code."""
    # Each combination of batch size, kind of block and window partition is compiled separately. Above `VARIANTS`
    # combinations PyTorch would silently run the code without compilation.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    torch._dynamo.config.accumulated_recompile_limit = max(
        torch._dynamo.config.accumulated_recompile_limit, 4 * VARIANTS
    )
    for unit in units:
        unit.compile(dynamic=False)


def named_parameters(stage: Stage) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """The parameters that each player updates, as (NETWORK.NAME, parameter); ValueError if a player has none."""
    found = {}
    for player in stage.players:
        found[player.name] = [
            (f"{name}.{key}", parameter)
            for name in player.modules
            for key, parameter in stage.modules[name].named_parameters()
            if parameter.requires_grad
        ]
        if not found[player.name]:
            raise ValueError(f"player {player.name} of stage {stage.name} has nothing to train")
    return found


def described(stage: Stage) -> str:
    """The names of the networks with their numbers of parameters, for the log."""
    words = []
    for name, module in {**stage.modules, **stage.frozen}.items():
        count = sum(p.numel() for p in module.parameters())
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        kind = "frozen" if not trained else "trained" if trained == count else f"{trained / 1e6:.3g} M of it trained"
        words.append(f"{name} {count / 1e6:.3g} M parameters, {kind}")
    return "; ".join(words)
