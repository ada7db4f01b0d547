"""Modulation by the time step ("single" AdaLN): one vector per sample for all blocks, and learned offsets per block."""

from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SINUSOIDS = 256
ATTENTION_SLOT, MLP_SLOT = 0, 1  # indices of the two layers' vectors in the time embedding
# The released 3B uses the attention's slot also for the tail after the last block. This looks like an accident, but the
# weights were trained with it.
TAIL_SLOT = ATTENTION_SLOT


class Modulation(NamedTuple):
    """Shift, scale and gate, [B, C] each, for one layer of one stream."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


Embedding = tuple[Modulation, Modulation]  # by slot: for the attention, and for the feed-forward layer


class TimeEmbedding(nn.Module):
    """Maps the time step to a `Modulation` for each of a block's two layers, which all blocks share."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.proj_in = nn.Linear(SINUSOIDS, dim)
        self.proj_hid = nn.Linear(dim, dim)
        self.proj_out = nn.Linear(dim, 6 * dim)

    def forward(self, timestep: Tensor) -> Embedding:
        """Embed time steps [B] in 0..1000."""
        x = F.silu(self.proj_in(sinusoids(timestep).to(self.proj_in.weight.dtype)))
        x = F.silu(self.proj_hid(x))
        # Features are ordered (C, 2 layers, 3 vectors). They are split once here, since every split launches kernels.
        vectors = self.proj_out(x).unflatten(-1, (self.dim, 6)).unbind(-1)
        return Modulation(*vectors[:3]), Modulation(*vectors[3:])


def sinusoids(timestep: Tensor) -> Tensor:
    """Sinusoidal features of time steps [B] in 0..1000: sines, then cosines, of 128 frequencies from 1 to 1/10000.

    The result is [B, SINUSOIDS] in float32 for any dtype of the network, because the fastest sinusoid has 159 periods
    up to 1000. The function of diffusers is not used, because its import takes two seconds.
    """
    half = SINUSOIDS // 2
    exponents = -log(10000) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angles = timestep.float()[:, None] * exponents.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def offset(dim: int, mean: float) -> nn.Parameter:
    """A learned vector [dim], initialised as normal around `mean` with deviation dim^-1/2.

    On the meta device it is not initialised: drawing there would import torch's compiler, two seconds at every start.
    """
    vector = torch.empty(dim)
    return nn.Parameter(vector if vector.is_meta else mean + torch.randn(dim) / dim**0.5)


class AdaSingle(nn.Module):
    """The offsets of one block, which are added to the shared time embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        for layer in ("attn", "mlp"):
            for kind, mean in (("shift", 0.0), ("scale", 1.0), ("gate", 0.0)):
                self.register_parameter(f"{layer}_{kind}", offset(dim, mean))

    def forward(self, embedding: Embedding, slot: int) -> Modulation:
        """Add the offsets to the embedding of `TimeEmbedding`; slot is `ATTENTION_SLOT` or `MLP_SLOT`."""
        shift, scale, gate = embedding[slot]
        layer = ("attn", "mlp")[slot]
        offsets = [getattr(self, f"{layer}_{kind}") for kind in ("shift", "scale", "gate")]
        return Modulation(shift + offsets[0], scale + offsets[1], gate + offsets[2])


class TailModulation(nn.Module):
    """Shift and scale between the last norm and the output projection of the 3B (`vid_out_ada`)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_shift = offset(dim, 0.0)
        self.out_scale = offset(dim, 1.0)

    def forward(self, embedding: Embedding) -> tuple[Tensor, Tensor]:
        """(shift, scale), each [B, C], from the slot that the released weights read: `TAIL_SLOT`."""
        shift, scale, _ = embedding[TAIL_SLOT]
        return shift + self.out_shift, scale + self.out_scale
