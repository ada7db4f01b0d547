"""RMSNorm, and the two elementwise passes of a transformer block: modulation and gated residual.

Each operation has one entry point. The code here runs on every device and is the reference of the faster kernels.
"""

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from common.kernels.cached_choice import cached_choice
from common.kernels.token_broadcast import broadcast_to_tokens
from common.kernels.triton_support import use_triton
from common.logger import get_logger

logger = get_logger(__name__)


@cached_choice
def apex_available() -> bool:
    """Whether apex's fused RMSNorm is installed; it is optional. Looked up and logged once."""
    found = (
        importlib.util.find_spec("apex") is not None and importlib.util.find_spec("fused_layer_norm_cuda") is not None
    )
    logger.debug("RMSNorm: %s", "apex on CUDA, torch elsewhere" if found else "torch")
    return found


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, with float32 statistics.

    Args:
        x: [..., n], any float dtype.
        weight: [n]; None: no weight.
    Returns:
        [..., n] in the dtype of x.
    """
    if x.is_cuda and weight is not None and apex_available():
        from apex.normalization.fused_layer_norm import fused_rms_norm_affine

        return fused_rms_norm_affine(x, weight, x.shape[-1:], eps)
    weight = None if weight is None else weight.to(x.dtype)
    if torch.is_autocast_enabled(x.device.type):  # on CUDA, autocast would return float32 and so widen all that follows
        with torch.autocast(x.device.type, enabled=False):
            return F.rms_norm(x, x.shape[-1:], weight, eps)
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def modulate(x: Tensor, scale: Tensor, shift: Tensor, sample_of_token: Tensor | None) -> Tensor:
    """x * scale + shift for tokens x [n, C], with one scale and shift per sample, [B, C] each."""
    return x * broadcast_to_tokens(scale, sample_of_token) + broadcast_to_tokens(shift, sample_of_token)


def norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, sample_of_token: Tensor | None, eps: float) -> Tensor:
    """RMSNorm without weight, then `modulate`: the input of a block's attention or MLP. x is [n, C]."""
    if use_triton(x, scale):
        from common.kernels import stream_triton

        return stream_triton.norm_modulate(x, scale, shift, sample_of_token, eps)
    return modulate(rms_norm(x, eps=eps), scale, shift, sample_of_token)


def gate_residual(x: Tensor, y: Tensor, gate: Tensor, sample_of_token: Tensor | None) -> Tensor:
    """x + y * gate with one gate [B, C] per sample: the gated residual of a block. x and y are [n, C]."""
    if use_triton(x, y, gate):
        from common.kernels import stream_triton

        return stream_triton.gate_residual(x, y, gate, sample_of_token)
    return x + y * broadcast_to_tokens(gate, sample_of_token)
