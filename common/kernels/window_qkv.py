"""Gathers queries, keys and values of packed attention windows from the projections of video and text, in one pass.

Letters: L video tokens · M text tokens · S rows of all windows · H heads · D features of a head · F rotated pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.kernels.norm import rms_norm
from common.kernels.rotary import apply_rotary
from common.kernels.triton_support import use_triton

Rotation = tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Stream:
    """The inputs of one stream, video or text, with n tokens.

    qkv: [n, 3 * H * D], features ordered (3, H, D).
    norm_q, norm_k: [D], weights of RMSNorm of queries and of keys.
    rotation: (cos, sin) of the rotary embedding, float32 [n, F] each; None: no rotation.
    """

    qkv: Tensor
    norm_q: Tensor
    norm_k: Tensor
    rotation: Rotation


def window_qkv(video: Stream, text: Stream, rows: Tensor, heads: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """RMSNorm of every head's queries and keys, rotary embedding, and a gather of the tokens into windows.

    Args:
        rows: int64 [S], the token of each window row: 0 ... L - 1 are video tokens, L ... L + M - 1 text tokens.
        heads: H.
        eps: of RMSNorm.
    Returns:
        q, k, v: [S, H, D] each, in the dtype of the projections.
    """
    features = video.norm_q.shape[0]
    if use_triton(video.qkv, text.qkv) and features & (features - 1) == 0:
        from common.kernels.window_qkv_triton import gather

        return gather(video, text, rows, heads, eps)
    both = torch.cat([_heads(video, heads, eps), _heads(text, heads, eps)])
    q, k, v = both.index_select(0, rows).unbind(1)
    return q, k, v


def _heads(stream: Stream, heads: int, eps: float) -> Tensor:
    """Queries, keys and values of every token, [n, 3, H, D]; queries and keys are normalised and rotated."""
    q, k, v = stream.qkv.unflatten(-1, (3, heads, -1)).unbind(1)  # each n H D
    turned = torch.stack([rms_norm(q, stream.norm_q, eps), rms_norm(k, stream.norm_k, eps)], dim=1)  # n 2 H D
    if stream.rotation is not None:
        turned = apply_rotary(turned.flatten(1, 2), *stream.rotation).view_as(turned)  # q and k by the same angles
    return torch.cat([turned, v[:, None]], dim=1)
