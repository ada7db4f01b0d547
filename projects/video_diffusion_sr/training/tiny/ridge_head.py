"""Solves the transformer's output head by ridge regression, for one sampling step from t = T.

At t = T the best linear head is the solution of a least-squares problem, which a few hundred pairs determine.
"""

from collections.abc import Callable, Iterable

import torch
from einops import rearrange
from torch import Tensor

from models.nadit.model import NaDiT

Predict = Callable[[Tensor], Tensor]  # x [L0, c] at t = T -> velocity [L0, c]
Sample = tuple[Tensor, tuple[int, int, int], Predict]


@torch.no_grad()
def solve_head(dit: NaDiT, samples: Iterable[Sample], penalty: float = 1e-3) -> tuple[float, float]:
    """Replace `vid_out.proj` by the ridge solution for the velocity noise - truth at t = T, near its old weights.

    Args:
        dit: the transformer, in float32.
        samples: for each clip, its true latents [L0, c], its latent size (t, h, w), and the prediction function.
        penalty: penalty on the change of the weights, per token and feature of unit energy.

    Returns:
        the mean squared error of the velocity over all samples, before and after.
    """
    proj, handed_over = dit.vid_out.proj, []
    hook = proj.register_forward_pre_hook(lambda _module, inputs: handed_over.append(inputs[0]))
    width, channels, device = proj.in_features + 1, proj.out_features, proj.weight.device
    normal = torch.zeros(width, width, device=device, dtype=torch.float64)
    mixed = torch.zeros(width, channels, device=device, dtype=torch.float64)
    energy, tokens = 0.0, 0
    generator = torch.Generator().manual_seed(0)
    try:
        for truth, size, predict in samples:
            handed_over.clear()
            noise = torch.randn(truth.shape, generator=generator).to(device)
            predict(noise)
            given = handed_over[-1]
            features = torch.cat([given, torch.ones_like(given[:, :1])], dim=1).double()
            wanted = patches(noise - truth, size, dit.config.patch_size).double()
            normal += features.T @ features
            mixed += features.T @ wanted
            energy, tokens = energy + float(wanted.square().sum()), tokens + len(wanted)
    finally:
        hook.remove()
    before = torch.cat([proj.weight.T, proj.bias[None]]).double()
    change = torch.linalg.solve(normal + penalty * tokens * torch.eye(width, device=device), mixed - normal @ before)
    after = before + change
    proj.weight.copy_(after[:-1].T)
    proj.bias.copy_(after[-1])

    def error(weights: Tensor) -> float:
        squared = energy - 2 * (weights * mixed).sum() + (weights * (normal @ weights)).sum()
        return float(squared) / (tokens * channels)

    return error(before), error(after)


def patches(latents: Tensor, size: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Group the latents [L0, c] of one clip by token: [tokens, patch positions x c], in the order of `vid_out.proj`."""
    (pt, ph, pw), (t, h, w) = patch, (n // p for n, p in zip(size, patch, strict=True))
    return rearrange(latents, "(t pt h ph w pw) c -> (t h w) (pt ph pw c)", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
