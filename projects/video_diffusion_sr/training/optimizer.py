"""Makes optimisers, and computes the learning rate of each step."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from projects.video_diffusion_sr.training.settings import OptimizerSettings


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerSettings, captured: bool = False
) -> torch.optim.Optimizer:
    """Make the optimiser of these parameters. On CUDA it is the fused implementation.

    Vectors (norms, biases, modulation) have no weight decay, because their initial value may be one and not zero.

    Args:
        captured: the steps are captured in CUDA graphs, so the learning rate must be a tensor on the device.

    Raises:
        ValueError: `captured`, and the optimiser does not support it.
    """
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = {"fused": True} if all(p.is_cuda for p in parameters) else {}
    rate: float | torch.Tensor = settings.lr
    if captured:
        rate, fused = torch.tensor(settings.lr, device=parameters[0].device), fused | {"capturable": True}
    if settings.name == "rmsprop":
        if captured:
            raise ValueError("graphs: rmsprop is not captured here; choose adamw or adam")
        return torch.optim.RMSprop(groups, lr=settings.lr, alpha=settings.betas[1], eps=settings.eps)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.name]
    return kind(groups, lr=rate, betas=settings.betas, eps=settings.eps, **fused)


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0) of `steps`: linear warm-up, then constant, or cosine to lr * final."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    progress = (step - settings.warmup) / max(1, steps - settings.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.lr * (settings.final + (1 - settings.final) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # a captured step reads it
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
