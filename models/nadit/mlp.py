"""The two feed-forward layers: GELU with biases (7B) and SwiGLU without (3B)."""

from math import ceil

from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, dim: int, expand_ratio: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, dim * expand_ratio)
        self.proj_out = nn.Linear(dim * expand_ratio, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(F.gelu(self.proj_in(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """silu(gate(x)) * in(x), projected back; two thirds of the plain width, rounded up to a multiple of 256."""

    def __init__(self, dim: int, expand_ratio: int) -> None:
        super().__init__()
        hidden = self.hidden(dim, expand_ratio)
        self.proj_in_gate = nn.Linear(dim, hidden, bias=False)
        self.proj_out = nn.Linear(hidden, dim, bias=False)
        self.proj_in = nn.Linear(dim, hidden, bias=False)

    @staticmethod
    def hidden(dim: int, expand_ratio: int) -> int:
        """The inner width."""
        return 256 * ceil(int(2 * dim * expand_ratio / 3) / 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(F.silu(self.proj_in_gate(x)) * self.proj_in(x))
