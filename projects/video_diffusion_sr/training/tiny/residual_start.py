"""Global residual learning: a fresh transformer that returns its condition, to which its blocks add what they learn."""

import torch

from models.nadit.model import NaDiT


@torch.no_grad()
def start_as_residual(dit: NaDiT, channels: int) -> None:
    """Make a fresh transformer without a tail answer v = x_t - condition at once, plus what its blocks add.

    At t = T that is a restoration which returns its input: training starts from there, and the noise, which the answer
    must hold exactly, has a straight way through.

    Raises:
        ValueError: a transformer with a norm in that way, or too narrow.
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
