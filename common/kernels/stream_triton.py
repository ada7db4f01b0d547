"""Triton kernels of a transformer block: norm with modulation, gated residual, SiLU times a factor.

Their entry points are in `norm.py` and `gated.py`. They compute in float32 and round once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from common.kernels.triton_support import launch

FLAT_BLOCK = 4096


@triton.jit
def _norm_modulate_kernel(
    out_ptr, x_ptr, scale_ptr, shift_ptr, sample_ptr, width, eps, PACKED: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    x = tl.load(x_ptr + row * width + at, mask=inside, other=0.0).to(tl.float32)
    sample = tl.load(sample_ptr + row) * width if PACKED else 0
    scale = tl.load(scale_ptr + sample + at, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + sample + at, mask=inside, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, 0) / width + eps) * scale + shift
    tl.store(out_ptr + row * width + at, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gate_residual_kernel(
    out_ptr, x_ptr, y_ptr, gate_ptr, sample_ptr, width, PACKED: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    x = tl.load(x_ptr + row * width + at, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + row * width + at, mask=inside, other=0.0).to(tl.float32)
    sample = tl.load(sample_ptr + row) * width if PACKED else 0
    gate = tl.load(gate_ptr + sample + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + at, (x + y * gate).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _silu_mul_kernel(out_ptr, gate_ptr, x_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    gate = tl.load(gate_ptr + at, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (gate / (1.0 + tl.exp(-gate)) * x).to(out_ptr.dtype.element_ty), mask=inside)


def norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, sample_of_token: Tensor | None, eps: float) -> Tensor:
    """See `common.kernels.norm.norm_modulate`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    if len(x):
        packed = sample_of_token is not None
        launch(
            _norm_modulate_kernel, (len(x),),
            out, x, scale.contiguous(), shift.contiguous(), sample_of_token if packed else x, x.shape[1], eps,
            PACKED=packed, BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=8 if x.shape[1] > 2048 else 4,
        )  # fmt: skip
    return out


def gate_residual(x: Tensor, y: Tensor, gate: Tensor, sample_of_token: Tensor | None) -> Tensor:
    """See `common.kernels.norm.gate_residual`."""
    x, y = x.contiguous(), y.contiguous()
    out = torch.empty_like(x)
    if len(x):
        packed = sample_of_token is not None
        launch(
            _gate_residual_kernel, (len(x),),
            out, x, y, gate.contiguous(), sample_of_token if packed else x, x.shape[1],
            PACKED=packed, BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=8 if x.shape[1] > 2048 else 4,
        )  # fmt: skip
    return out


def silu_mul_(gate: Tensor, x: Tensor) -> Tensor:
    """silu(gate) * x, written over `gate`; both tensors are contiguous and of equal shape."""
    if gate.numel():
        launch(
            _silu_mul_kernel,
            (triton.cdiv(gate.numel(), FLAT_BLOCK),),
            gate,
            gate,
            x,
            gate.numel(),
            BLOCK=FLAT_BLOCK,
            num_warps=4,
        )
    return gate
