"""A stage's networks on their device: sharded, filled, in the dtype they are kept in, compiled."""

from collections.abc import Sequence

import torch
from torch import nn

from common.distributed import fsdp
from common.logger import get_logger
from projects.video_diffusion_sr.training.stage import Stage

logger = get_logger(__name__)

VARIANTS = 128  # of one compiled block


def place_networks(stage: Stage, strategy: str, device: torch.device, *, bf16: bool, compiled: bool) -> None:
    """Shard every network of a stage and move it to the device, filled from `Stage.weights` where it has none yet.

    Args:
        strategy: `dit.fsdp.sharding_strategy`.
        bf16: compute in bfloat16; then `Stage.half` is kept in it, too.
        compiled: torch.compile each unit, on CUDA.
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
        # A frozen network without blocks (the VAE) is small next to what is trained: it stays whole.
        if trained or units:
            fsdp.shard(module, units, strategy, mesh, bf16=bf16, entry_points=stage.entry_points(name))
        fsdp.place(module, device, stage.weights.pop(name, None))
        if mesh is None:
            fsdp.same_on_all_ranks(module)
        if compiled:
            compile_units(units)


def halve(module: nn.Module) -> None:
    """Keep parameters in bfloat16; buffers stay, as rotary tables are float32 for a reason."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def compile_units(units: Sequence[nn.Module]) -> None:
    """torch.compile each unit for the very shapes it meets; blocks of one kind share what is compiled."""
    # Every size of batch, kind of block and way to cut windows is a variant of the same code; past the limit PyTorch
    # would go back to eager without a word.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    torch._dynamo.config.accumulated_recompile_limit = max(
        torch._dynamo.config.accumulated_recompile_limit, 4 * VARIANTS
    )
    for unit in units:
        unit.compile(dynamic=False)


def named_parameters(stage: Stage) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """(NETWORK.NAME, parameter) of everything that each player moves; ValueError for a player with nothing."""
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
    """The networks with their numbers of parameters, for the log."""
    words = []
    for name, module in {**stage.modules, **stage.frozen}.items():
        count = sum(p.numel() for p in module.parameters())
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        kind = "frozen" if not trained else "trained" if trained == count else f"{trained / 1e6:.3g} M of it trained"
        words.append(f"{name} {count / 1e6:.3g} M parameters, {kind}")
    return "; ".join(words)
