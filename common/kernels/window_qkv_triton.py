"""The Triton kernel of `common.kernels.window_qkv`: each program computes one row of q, k or v."""

import triton
import triton.language as tl
from torch import Tensor

from common.kernels.triton_support import launch


@triton.jit(do_not_specialize=["total", "videos", "pairs"])
def _gather_kernel(
    out_ptr, rows_ptr, video_ptr, text_ptr,
    video_norm_q, video_norm_k, text_norm_q, text_norm_k, video_cos, video_sin, text_cos, text_sin,
    total, videos, heads, pairs, eps,
    TURN_VIDEO: tl.constexpr, TURN_TEXT: tl.constexpr, D: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    place, kind = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = tl.load(rows_ptr + place)
    head, feature = tl.arange(0, HEADS), tl.arange(0, D)
    inside = (head < heads)[:, None] & (feature < D)[None, :]
    within = head[:, None] * D + feature[None, :]
    width = heads * D
    of_text = token >= videos
    source = token - tl.where(of_text, videos, 0)
    at = source * 3 * width + kind * width + within
    target = out_ptr + (kind.to(tl.int64) * total + place) * width + within
    # Each token is loaded from both streams; a mask makes the load from the wrong stream zero.
    x = tl.load(video_ptr + at, mask=inside & (token < videos), other=0.0)
    x += tl.load(text_ptr + at, mask=inside & of_text, other=0.0)
    if kind == 2:
        tl.store(target, x, mask=inside)
    else:
        value = x.to(tl.float32)
        if kind == 0:
            weight = tl.load(video_norm_q + feature, mask=(feature < D) & (token < videos), other=0.0).to(tl.float32)
            weight += tl.load(text_norm_q + feature, mask=(feature < D) & of_text, other=0.0).to(tl.float32)
        else:
            weight = tl.load(video_norm_k + feature, mask=(feature < D) & (token < videos), other=0.0).to(tl.float32)
            weight += tl.load(text_norm_k + feature, mask=(feature < D) & of_text, other=0.0).to(tl.float32)
        value = value * tl.rsqrt(tl.sum(value * value, 1) / D + eps)[:, None] * weight[None, :]
        pair = tl.arange(0, D // 2)
        cos, sin = tl.zeros([D // 2], tl.float32), tl.zeros([D // 2], tl.float32)
        if TURN_VIDEO:
            turned = (pair < pairs) & (token < videos)
            cos += tl.load(video_cos + source * pairs + pair, mask=turned, other=0.0)
            sin += tl.load(video_sin + source * pairs + pair, mask=turned, other=0.0)
        if TURN_TEXT:
            turned = (pair < pairs) & of_text
            cos += tl.load(text_cos + source * pairs + pair, mask=turned, other=0.0)
            sin += tl.load(text_sin + source * pairs + pair, mask=turned, other=0.0)
        if TURN_TEXT:
            still = pair >= pairs
        else:
            still = (pair >= pairs) | of_text
        cos = tl.where(still, 1.0, cos)
        first, second = tl.split(tl.reshape(value, (HEADS, D // 2, 2)))
        turned_first = first * cos[None, :] - second * sin[None, :]
        turned_second = second * cos[None, :] + first * sin[None, :]
        y = tl.reshape(tl.join(turned_first, turned_second), (HEADS, D))
        tl.store(target, y.to(out_ptr.dtype.element_ty), mask=inside)


def gather(video, text, rows: Tensor, heads: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """See `common.kernels.window_qkv.window_qkv`; `video` and `text` are a `Stream` each."""
    features = video.qkv.shape[-1] // (3 * heads)
    assert features & (features - 1) == 0, f"a head of {features} features; the kernel needs a power of two"
    out = video.qkv.new_empty(3, len(rows), heads, features)
    if not len(rows):
        return out[0], out[1], out[2]
    norms = [x.contiguous() for x in (video.norm_q, video.norm_k, text.norm_q, text.norm_k)]
    tables = [x for stream in (video, text) for x in (stream.rotation or (norms[0], norms[0]))]
    pairs = next((s.rotation[0].shape[1] for s in (video, text) if s.rotation is not None), 0)
    launch(
        _gather_kernel, (len(rows), 3),
        out, rows, video.qkv.contiguous(), text.qkv.contiguous(), *norms, *tables,
        len(rows), len(video.qkv), heads, pairs, eps,
        TURN_VIDEO=video.rotation is not None, TURN_TEXT=text.rotation is not None,
        D=features, HEADS=triton.next_power_of_2(heads), num_warps=4,
    )  # fmt: skip
    return out[0], out[1], out[2]
