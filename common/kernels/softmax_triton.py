"""Scores and their softmax for attention with one very wide head; each program computes one row of the softmax."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from common.kernels.triton_support import launch

BLOCK = 4096


@triton.jit
def _softmax_kernel(out_ptr, x_ptr, length, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * length
    out_ptr += row * length
    at = tl.arange(0, BLOCK)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, length, BLOCK):
        x = tl.load(x_ptr + start + at, mask=start + at < length, other=float("-inf")) * scale
        higher = tl.maximum(highest, x)
        kept = tl.where(highest == float("-inf"), 0.0, tl.exp(highest - higher))
        total = total * kept + tl.where(x == float("-inf"), 0.0, tl.exp(x - higher))
        highest = higher
    top = tl.max(highest, 0)
    whole = tl.sum(tl.where(highest == float("-inf"), 0.0, total * tl.exp(highest - top)), 0)
    for start in range(0, length, BLOCK):
        x = tl.load(x_ptr + start + at, mask=start + at < length, other=float("-inf")) * scale
        weights = tl.exp(x - top) / whole
        tl.store(out_ptr + start + at, weights.to(out_ptr.dtype.element_ty), mask=start + at < length)


def scores(q: Tensor, k: Tensor) -> Tensor:
    """q k^T: [rows, C], [L, C] -> float32 [rows, L]. With 16-bit scores, weights would err by several percent."""
    if q.dtype == torch.float32 or not q.is_cuda:
        return q.float() @ k.float().T
    return torch.mm(q, k.T, out_dtype=torch.float32)


def softmax(x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """softmax(x * scale) along the rows of a contiguous float32 matrix, returned in `dtype`."""
    out = torch.empty_like(x, dtype=dtype)
    launch(_softmax_kernel, (len(x),), out, x, x.shape[1], scale, BLOCK=BLOCK, num_warps=8)
    return out
