"""The discriminator of adversarial post-training: a NaDiT with heads after three blocks, and one logit per sample.

As in APT (arXiv 2501.08316) and SeedVR2 (arXiv 2506.05301), its input is clean latents, it is initialised with the
weights of the diffusion model, and all its weights are trained.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.nadit.attention import HeadNorm
from models.nadit.layout import ClipLayout, WindowLayout
from models.nadit.model import NaDiT
from models.nadit.modulation import offset
from models.nadit.recompute import Recompute

PAPER_TAPS, PAPER_BLOCKS = (16, 26, 36), 36


class DiscriminatorOutput(NamedTuple):
    """The output of the discriminator; see `NaDiTOutput` for why it is a tuple.

    logits: [B] float32.
    features: see `NaDiTOutput`.
    """

    logits: Tensor
    features: tuple[Tensor, ...]


class QueryHead(nn.Module):
    """A head: cross-attention from one learned query token to all video tokens of a sample, and an MLP.

    Args:
        dim: width C of the tokens.
        heads, head_dim: number of attention heads, and their width.
        eps: epsilon of the norms.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        inner = heads * head_dim
        self.query = offset(dim, 0.0)
        self.norm_query, self.norm_tokens, self.norm_mlp = (nn.LayerNorm(dim, eps) for _ in range(3))
        self.proj_q = nn.Linear(dim, inner, bias=False)
        self.proj_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.norm_q, self.norm_k = HeadNorm(head_dim, eps), HeadNorm(head_dim, eps)
        self.proj_out = nn.Linear(inner, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor, layout: WindowLayout) -> Tensor:
        """Map the tokens on this rank [L, C] to one vector per sample [B, C], the same on every rank."""
        q = self.norm_q(self.proj_q(self.norm_query(self.query)).unflatten(-1, (self.heads, self.head_dim)))  # H D
        k, v = self.proj_kv(self.norm_tokens(tokens)).unflatten(-1, (2, self.heads, self.head_dim)).unbind(1)  # L H D
        k = self.norm_k(k)
        with torch.autocast(tokens.device.type, enabled=False):
            readings = layout.exchange.collect(read_samples(q.to(k.dtype), k, v, layout.token_counts), "heads")
            weight = readings[..., -1:].softmax(0)  # the weight of each rank: its part of the softmax's sum
            read = (weight * readings[..., :-1]).sum(0).flatten(1)  # B (H D)
        x = self.query + self.proj_out(read.to(tokens.dtype))  # B C
        return x + self.mlp(self.norm_mlp(x))


def read_samples(q: Tensor, k: Tensor, v: Tensor, counts: Sequence[int]) -> Tensor:
    """Softmax attention of one query over the tokens of each sample.

    Args:
        q: [H, D], the query.
        k, v: [L, H, D], keys and values of packed tokens.
        counts: number of tokens of each sample on this rank, which may be 0.
    Returns:
        [B, H, D + 1] float32 (or wider): the result, and the log-sum-exp of the scores, with which the results of
        several ranks can be combined.
    """
    wide = torch.promote_types(k.dtype, torch.float32)
    scores = (k * q).sum(-1, dtype=wide) * q.shape[-1] ** -0.5  # L H
    found, start = [], 0
    for count, run in groupby(counts):  # adjacent samples of one size are processed together
        samples = len(list(run))
        rows = slice(start, start + samples * count)
        start = rows.stop
        of_run = scores[rows].unflatten(0, (samples, count))  # b n H
        values = v[rows].unflatten(0, (samples, count))  # b n H D
        read = torch.einsum("bnh,bnhd->bhd", of_run.softmax(1).to(v.dtype), values).to(wide)
        found.append(torch.cat([read, of_run.logsumexp(1)[..., None]], dim=-1))
    return torch.cat(found)


class Discriminator(nn.Module):
    """The discriminator: a backbone, heads, and one linear layer on their results.

    Args:
        backbone: a transformer with the diffusion model's config, usually with its weights.
        taps: numbers of the blocks after which there are heads, from 1 as in the papers; None: the same relative depths
            as 16, 26 and 36 of 36.

    Raises:
        ValueError: a tap is not the number of a block, or taps do not increase.
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
        """Logits of packed samples. The arguments are those of `NaDiT.forward`, with clean latents."""
        out = self.backbone(vid, txt, vid_shape, txt_shape, timestep, layout=layout, taps=self.taps)
        # Heads are always recomputed whole: they have few products, and one of them is squeezed in place.
        recompute = Recompute(1.0) if self.backbone.recomputed and torch.is_grad_enabled() else None
        said = []
        for head, tap, x in zip(self.heads, self.taps, out.features, strict=True):
            windows = layout.blocks[tap]
            said.append(head(x, windows) if recompute is None else recompute.run(head, x, windows))
        return DiscriminatorOutput(self.logits(said), out.features)

    def logits(self, said: Sequence[Tensor]) -> Tensor:
        """Map the results of the heads, [B, C] each, to logits [B], in float32 even if the weights are bfloat16.

        The penalties are squared differences of logits times 1000, in which rounding errors would dominate.
        """
        norm, out = self.norm, self.out
        with torch.autocast(said[0].device.type, enabled=False):
            x = torch.cat(list(said), dim=1).float()
            x = F.layer_norm(x, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
            return F.linear(x, out.weight.float(), out.bias.float()).squeeze(1)


def proportional_taps(blocks: int) -> tuple[int, ...]:
    """The numbers of the blocks, from 1, at the relative depths of the papers' three heads."""
    return tuple(dict.fromkeys(max(1, round(tap * blocks / PAPER_BLOCKS)) for tap in PAPER_TAPS))
