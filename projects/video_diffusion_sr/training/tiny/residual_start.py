"""Global residual learning: initialises a transformer that returns its condition; training adds corrections to it."""

import torch

from models.nadit.model import NaDiT


@torch.no_grad()
def start_as_residual(dit: NaDiT, channels: int) -> None:
    """Initialise a transformer without an output norm so that v = x_t - condition, plus the output of its blocks.

    At t = T, a step with this v returns the condition, so training starts from there. The noise, which v must contain
    exactly, passes through the residual stream.

    Raises:
        ValueError: the transformer has an output norm, or is too narrow.
    """
    positions = dit.config.patch_size[0] * dit.config.patch_size[1] * dit.config.patch_size[2]
    if dit.config.tail or positions * channels > dit.config.dim:
        raise ValueError(f"this start needs vid_out_norm: null and a width of at least {positions * channels}")
    kept = positions * channels
    into = dit.vid_in.proj.weight[:kept].zero_().view(positions, channels, positions, -1)
    dit.vid_in.proj.bias[:kept] = 0
    for p in range(positions):
        for c in range(channels):
            into[p, c, p, c], into[p, c, p, channels + c] = 1, -1
    dit.vid_out.proj.weight.zero_()[:, :kept].fill_diagonal_(1)
    dit.vid_out.proj.bias.zero_()
