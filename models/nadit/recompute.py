"""Activation checkpointing: which blocks the backward pass computes again, and which of their results it finds kept.

| keeps | stays of such a block | computed again |
| --- | --- | --- |
| nothing | its input | all of it |
| attention | also what attention read | all but attention |
| products | also the results of all matrix products | norms, modulation, rotation, gathers, activations |

Memory rises and work falls from line to line; gradients are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

# Operators below autograd, by name: the backends of `common.kernels.attention`, and the products of linear layers.
ATTENTION = frozenset(
    {
        "aten::_scaled_dot_product_cudnn_attention",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_fused_attention_overrideable",
        "aten::_flash_attention_forward",
        "flash_attn::_flash_attn_varlen_forward",
        "torch_attn::_varlen_attn",
    }
)
PRODUCTS = frozenset({"aten::mm", "aten::addmm"})
KEPT: dict[str, frozenset[str]] = {"nothing": frozenset(), "attention": ATTENTION, "products": ATTENTION | PRODUCTS}


@dataclass(frozen=True)
class Recompute:
    """Activation checkpointing of a network.

    share: of the blocks that are computed again, spread evenly over the depth, in [0, 1]; True and False count.
    keeps: what stays of those, a key of `KEPT`.

    Raises:
        ValueError: another share or word.
    """

    share: float = 0.0
    keeps: str = "nothing"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"dit.gradient_checkpoint is a share of the blocks in [0, 1], got {self.share}")
        if self.keeps not in KEPT:
            raise ValueError(f"dit.gradient_checkpoint_keeps={self.keeps!r}: choose from {', '.join(KEPT)}")

    def blocks(self, count: int) -> frozenset[int]:
        """Numbers of the blocks, of `count`, that are computed again."""
        return frozenset(n for n in range(count) if int((n + 1) * self.share) > int(n * self.share))

    def run(self, module: Callable[..., Any], *inputs: Any) -> Any:
        """`module(*inputs)`, most of which the backward pass computes again."""
        if self.keeps == "nothing":
            return checkpoint(module, *inputs, use_reentrant=False)
        contexts = partial(create_selective_checkpoint_contexts, partial(_policy, KEPT[self.keeps]))
        return checkpoint(module, *inputs, use_reentrant=False, context_fn=contexts)


def _policy(
    kept: frozenset[str], _context: SelectiveCheckpointContext, operator: Any, *_: Any, **__: Any
) -> CheckpointPolicy:
    schema = getattr(operator, "_schema", None)  # operators of higher order have none
    chosen = schema is not None and schema.name in kept
    return CheckpointPolicy.MUST_SAVE if chosen else CheckpointPolicy.PREFER_RECOMPUTE
