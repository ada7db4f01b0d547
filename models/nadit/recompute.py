"""Activation checkpointing: which blocks the backward pass recomputes, and which of their results are kept.

| keeps | kept of such a block | recomputed |
| --- | --- | --- |
| nothing | its input | everything |
| attention | also the results of attention | everything but attention |
| products | also the results of all matrix products | norms, modulation, rotation, gathers, activations |

From row to row, memory rises and work falls. Gradients are the same.
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

# Names of operators below autograd: the backends of `common.kernels.attention`, and the products of linear layers.
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
    """The activation checkpointing of a network.

    share: the fraction of blocks that are recomputed, spread evenly over the depth, in [0, 1].
    keeps: which results of these blocks are kept, a key of `KEPT`.

    Raises:
        ValueError: another share, or another key.
    """

    share: float = 0.0
    keeps: str = "nothing"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"dit.gradient_checkpoint is a share of the blocks in [0, 1], got {self.share}")
        if self.keeps not in KEPT:
            raise ValueError(f"dit.gradient_checkpoint_keeps={self.keeps!r}: choose from {', '.join(KEPT)}")

    def blocks(self, count: int) -> frozenset[int]:
        """The numbers of the recomputed blocks among `count` blocks."""
        return frozenset(n for n in range(count) if int((n + 1) * self.share) > int(n * self.share))

    def run(self, module: Callable[..., Any], *inputs: Any) -> Any:
        """Call `module(*inputs)` so that the backward pass recomputes what is not kept."""
        if self.keeps == "nothing":
            return checkpoint(module, *inputs, use_reentrant=False)
        contexts = partial(create_selective_checkpoint_contexts, partial(_policy, KEPT[self.keeps]))
        return checkpoint(module, *inputs, use_reentrant=False, context_fn=contexts)


def _policy(
    kept: frozenset[str], _context: SelectiveCheckpointContext, operator: Any, *_: Any, **__: Any
) -> CheckpointPolicy:
    schema = getattr(operator, "_schema", None)  # higher-order operators have none
    chosen = schema is not None and schema.name in kept
    return CheckpointPolicy.MUST_SAVE if chosen else CheckpointPolicy.PREFER_RECOMPUTE
