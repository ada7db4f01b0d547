"""The activations between the two matrix products of a feed-forward layer, with a reference on every device."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.kernels.triton_support import use_triton


def silu_mul(gate: Tensor, x: Tensor) -> Tensor:
    """silu(gate) * x, both [n, hidden]. On CUDA without gradients the result may overwrite `gate`."""
    if use_triton(gate, x) and gate.is_contiguous() and x.is_contiguous():
        from common.kernels.stream_triton import silu_mul_

        return silu_mul_(gate, x)
    return F.silu(gate) * x


def linear_gelu(x: Tensor, linear: nn.Linear) -> Tensor:
    """GELU (tanh approximation) of a linear layer: [n, in] -> [n, out].

    On CUDA without gradients it is fused into the matrix product, if the layer is a plain `nn.Linear`: the forward pass
    of a wrapped or hooked layer does more than the product.
    """
    plain = type(linear) is nn.Linear and "forward" not in vars(linear) and not linear._forward_pre_hooks
    if plain and linear.bias is not None and x.is_cuda and use_triton(x):
        return torch._addmm_activation(linear.bias, x, linear.weight.T, use_gelu=True)
    return F.gelu(linear(x), approximate="tanh")
