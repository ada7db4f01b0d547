"""Memory and forward passes of a step of each stage on latents, by formula; `benchmark_training.py` measures them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from models.nadit.config import NaDiTConfig
from models.nadit.mlp import SwiGLU
from models.nadit.recompute import Recompute

# Bytes a parameter: weight and two moments of Adam; its average; its gradient; the weight of a teacher.
TRAINED, AVERAGED, GRADIENT, USED = 12, 4, 4, 2
GATHERED = 2  # bytes a parameter in bfloat16
# Bytes a token and channel that a backward pass finds kept, counted by hooks on saved tensors of the 3B's widths in
# bfloat16 on a CPU: inside of one block, and by each of the discriminator's heads. With them the peaks of the diffusion
# stage on two H100s come out within 1 % (docs/training.md).
BLOCK_BYTES, HEAD_BYTES = 70, 16
VAE_BYTES = 2  # a parameter of the VAE, whole on every GPU


@dataclass(frozen=True)
class StageCost:
    """passes: of the transformer in a step, in forward passes, what checkpointing computes again included.
    versions: of the batch that one backward pass holds. heads: of the discriminator.
    averaged, trained, used: parameters. largest: those of the player with the most, as one at a time has gradients."""

    name: str
    passes: float
    versions: int
    averaged: int
    trained: int
    used: int
    largest: int
    heads: int = 0


def stage_costs(
    transformer: int, discriminator: int, heads: int, recompute: Recompute, attention: float = 0.0
) -> dict[str, StageCost]:
    """Networks and passes of each stage.

    Args:
        transformer, discriminator: numbers of parameters. heads: of the discriminator.
        recompute: what the backward pass computes again, which counts as a part of a forward pass.
        attention: its share of the operations of a forward pass, at most 1.
    """
    again = {"nothing": 1.0, "attention": 1.0 - attention, "products": 0.0}[recompute.keeps]
    trained = 3 + recompute.share * again  # forward, a backward pass of twice its work, and what is computed again
    both, largest = transformer + discriminator, max(transformer, discriminator)
    found = [
        StageCost("diffusion", trained, 1, transformer, transformer, 0, transformer),
        StageCost("distill", 2 + trained, 1, transformer, transformer, transformer, transformer),
        # Update of the discriminator: generate, judge four. Of the generator: generate, judge real and generated, and
        # gradients pass through the discriminator to the generator alone.
        StageCost("adversarial", 1 + 6 * trained, 4, transformer, both, 0, largest, heads),
    ]
    return {stage.name: stage for stage in found}


@dataclass(frozen=True)
class Sharding:
    """How a step is sharded over GPUs.

    state: GPUs that share the weights. clip: those that share each batch.
    whole: gathered weights stay until the backward pass is done; else two blocks of them are there at a time.
    """

    state: int
    clip: int
    whole: bool


def kept_bytes(config: NaDiTConfig, keeps: str) -> float:
    """Bytes a token and channel that stay of a block that is computed again, beside its input, in bfloat16.

    The results of attention with the logarithms of its sums (float32), and of the products of the linear layers.
    """
    inner = config.heads * config.head_dim
    swiglu = config.mlp == "swiglu"
    hidden = 2 * SwiGLU.hidden(config.dim, config.expand_ratio) if swiglu else config.dim * config.expand_ratio
    attention = 2 * inner + 4 * config.heads
    products = 2 * (3 * inner + config.dim + hidden + config.dim)
    return {"nothing": 0, "attention": attention, "products": attention + products}[keeps] / config.dim


def memory(
    stage: StageCost, config: NaDiTConfig, tokens: int, sharding: Sharding, recompute: Recompute, vae: int = 0
) -> Mapping[str, float]:
    """Bytes on each GPU, by what they are for; their sum is the peak.

    A backward pass begins with all that is kept and ends with all gradients, and what is kept goes as gradients come:
    the larger of the two counts.

    Args:
        tokens: of a batch, texts included.
        recompute: which blocks are computed again, one at a time, and what stays of them; the others stay whole.
        vae: its parameters; 0 where latents are stored.
    """
    sharded = sharding.state > 1
    stream = 2 if sharded else 4  # a lone GPU computes under autocast, whose residual stream is float32
    again = len(recompute.blocks(config.num_layers))
    stays = kept_bytes(config, recompute.keeps)
    insides = max(1, config.num_layers - again)
    heads = HEAD_BYTES * (stage.heads if again == 0 else 0)  # with checkpointing computed again, before the blocks are
    numbers = float(ceil(tokens / sharding.clip) * stage.versions * config.dim)
    kept = (stream * config.num_layers + stays * again + BLOCK_BYTES * (insides - 1) + heads) * numbers
    return {
        "state": (TRAINED * stage.trained + AVERAGED * stage.averaged + USED * stage.used) / sharding.state
        + VAE_BYTES * vae,
        "gathered": GATHERED * (stage.trained + stage.used) * (1 if sharding.whole else 2 / config.num_layers),
        "one block": (BLOCK_BYTES - (stays if again == config.num_layers else 0)) * numbers,
        "inputs or gradients": max(kept, GRADIENT * stage.largest / sharding.state),
    }
