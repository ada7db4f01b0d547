"""The discriminator of adversarial post-training: a NaDiT with a head on three of its blocks, one logit a sample.

As in APT (arXiv 2501.08316) and SeedVR2 (arXiv 2506.05301): it sees clean latents, starts from the weights of the
diffusion model, and all of it is trained.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.nadit.attention import HeadNorm
from models.nadit.layout import ClipLayout
from models.nadit.model import NaDiT

PAPER_TAPS, PAPER_BLOCKS = (16, 26, 36), 36


class DiscriminatorOutput(NamedTuple):
    """logits: [B] float32. features: video tokens [L, C] after each tapped block. A tuple as `NaDiTOutput` is."""

    logits: Tensor
    features: tuple[Tensor, ...]


class QueryHead(nn.Module):
    """One learned token reads all video tokens of its sample by cross-attention, then goes through an MLP.

    Args:
        dim: C of the tokens. heads, head_dim: of the attention. eps: of its norms.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        inner = heads * head_dim
        self.query = nn.Parameter(torch.randn(dim) / dim**0.5)
        self.norm_query, self.norm_tokens, self.norm_mlp = (nn.LayerNorm(dim, eps) for _ in range(3))
        self.proj_q = nn.Linear(dim, inner, bias=False)
        self.proj_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.norm_q, self.norm_k = HeadNorm(head_dim, eps), HeadNorm(head_dim, eps)
        self.proj_out = nn.Linear(inner, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor, counts: Sequence[int]) -> Tensor:
        """tokens: [L, C] packed, `counts` of them in each sample -> [B, C]."""
        q = self.norm_q(self.proj_q(self.norm_query(self.query)).unflatten(-1, (self.heads, self.head_dim)))  # H D
        k, v = self.proj_kv(self.norm_tokens(tokens)).unflatten(-1, (2, self.heads, self.head_dim)).unbind(1)  # L H D
        k = self.norm_k(k)
        read, start = [], 0
        for count, run in groupby(counts):  # samples of one size in a row are one dense call
            samples = len(list(run))
            rows = slice(start, start + samples * count)
            start = rows.stop
            dense = [x[rows].unflatten(0, (samples, count)).transpose(1, 2) for x in (k, v)]  # B H count D
            query = q.to(k.dtype)[None, :, None].expand(samples, -1, 1, -1)  # B H 1 D
            read.append(F.scaled_dot_product_attention(query, *dense).flatten(1))
        x = self.query + self.proj_out(torch.cat(read))  # B C
        return x + self.mlp(self.norm_mlp(x))


class Discriminator(nn.Module):
    """Backbone, heads, and one linear layer over what the heads say.

    Args:
        backbone: of the diffusion model's config, usually with its weights.
        taps: after which blocks a head reads, counted from 1 as in the papers; None puts them as deep, in proportion,
            as 16, 26 and 36 of 36.

    Raises:
        ValueError: a tap that is no block, or not in rising order.
    """

    def __init__(self, backbone: NaDiT, taps: Sequence[int] | None = None) -> None:
        super().__init__()
        config = backbone.config
        taps = proportional_taps(config.num_layers) if taps is None else tuple(taps)
        if not taps or list(taps) != sorted(set(taps)) or taps[0] < 1 or taps[-1] > config.num_layers:
            raise ValueError(f"taps {taps} must rise and lie in 1..{config.num_layers}, the blocks of the backbone")
        self.backbone = backbone
        self.taps = tuple(tap - 1 for tap in taps)
        sizes = (config.dim, config.heads, config.head_dim, config.norm_eps)
        self.heads = nn.ModuleList([QueryHead(*sizes) for _ in taps])
        self.norm = nn.LayerNorm(len(taps) * config.dim)
        self.out = nn.Linear(len(taps) * config.dim, 1)

    def reset_buffers(self, device: torch.device | str | None = None) -> None:
        """See `NaDiT.reset_buffers`."""
        self.backbone.reset_buffers(device)

    def forward(
        self,
        vid: Tensor,
        txt: Tensor,
        vid_shape: Tensor | Sequence[Sequence[int]],
        txt_shape: Tensor | Sequence[Sequence[int]],
        timestep: Tensor | float,
        *,
        layout: ClipLayout,
    ) -> DiscriminatorOutput:
        """How real each packed sample looks; arguments as those of `NaDiT.forward`, clean latents in place of noisy."""
        out = self.backbone(vid, txt, vid_shape, txt_shape, timestep, layout=layout, taps=self.taps)
        said = [head(x, layout.token_counts) for head, x in zip(self.heads, out.features, strict=True)]
        with torch.autocast(vid.device.type, enabled=False):  # differences of logits are what counts: no rounding here
            said = self.norm(torch.cat(said, dim=1).to(self.norm.weight.dtype))
            return DiscriminatorOutput(self.out(said).squeeze(1).float(), out.features)


def proportional_taps(blocks: int) -> tuple[int, ...]:
    """Blocks, counted from 1, as deep in a network of another depth as the papers' three."""
    return tuple(dict.fromkeys(max(1, round(tap * blocks / PAPER_BLOCKS)) for tap in PAPER_TAPS))
