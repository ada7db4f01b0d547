"""Memory and time of a step of each stage on latents, by formula; `benchmark_training.py` measures them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from models.nadit.config import NaDiTConfig
from models.nadit.mlp import SwiGLU
from models.nadit.recompute import Recompute

# Bytes a parameter: weight; a moment of the optimiser; its average; its gradient; the weight of a teacher.
WEIGHT, MOMENT, AVERAGED, GRADIENT, USED = 4, 4, 4, 4, 2
GATHERED = 2  # bytes a parameter in bfloat16
# Bytes a token and channel that a backward pass finds kept, counted by hooks on saved tensors of the 3B's widths in
# bfloat16 on a CPU: inside of one block, and by each of the discriminator's heads. With them the peaks of the diffusion
# stage on two H100s come out within 1 % (docs/training.md).
BLOCK_BYTES, HEAD_BYTES = 70, 16
VAE_BYTES = 2  # a parameter of the VAE, whole on every GPU

# Bytes a token and channel that a block reads and writes in memory in a pass: counted by operator on a CPU, as the mean
# of a forward pass, the same computed again and a backward pass of two (a test counts them).
BLOCK_TRAFFIC = 325
# Seconds in which the host issues a pass of one block, with autograd, autocast, checkpointing and sharding: found on
# the steps of single frames on two H100s, which take so long whatever they compute. Hosts differ.
HOST_SECONDS = 8.3e-3
# A pass without gradients issues so much of that, as fused kernels replace norms, modulation and rotation.
WITHOUT_GRADIENTS = 0.6


@dataclass(frozen=True)
class Part:
    """A part of a step, in forward passes of the transformer on one version of the batch.

    products: operations. traffic: what is read and written in memory, which is more with what checkpointing computes
    again beside kept products. issued: operators that the host issues, once for all versions.
    """

    products: float
    traffic: float
    issued: float


@dataclass(frozen=True)
class StageCost:
    """parts: of a step, one after another. versions: of the batch that one backward pass holds.
    averaged, trained, used: parameters. largest: those of the player with the most, as one at a time has gradients.
    heads: of the discriminator. moments: of the optimiser, a parameter."""

    name: str
    parts: tuple[Part, ...]
    versions: int
    averaged: int
    trained: int
    used: int
    largest: int
    heads: int = 0
    moments: int = 2

    @property
    def passes(self) -> float:
        """Forward passes of a step by operations, what checkpointing computes again included."""
        return sum(part.products for part in self.parts)


def stage_costs(
    transformer: int, discriminator: int, heads: int, recompute: Recompute, attention: float = 0.0, moments: int = 2
) -> dict[str, StageCost]:
    """Networks and passes of each stage.

    Args:
        transformer, discriminator: numbers of parameters. heads: of the discriminator.
        recompute: what the backward pass computes again, which counts as a part of a forward pass.
        attention: its share of the operations of a forward pass, at most 1.
        moments: that the optimiser keeps of a parameter.
    """
    again = {"nothing": 1.0, "attention": 1.0 - attention, "products": 0.0}[recompute.keeps]
    # Forward, a backward pass of twice its work, and what is computed again.
    products, passes = 3 + recompute.share * again, 3 + recompute.share
    forward, trained = Part(1, 1, WITHOUT_GRADIENTS), Part(products, passes, passes)
    both, largest = transformer + discriminator, max(transformer, discriminator)
    # Update of the discriminator: generate, judge four. Of the generator: generate, judge real and generated, and
    # gradients pass through the discriminator to the generator alone.
    four, judged = Part(4 * products, 4 * passes, passes), Part(products - 1, passes - 1, passes - 1)
    adversarial = (forward, four, trained, forward, judged)
    sizes = {"moments": moments, "averaged": transformer}
    found = [
        StageCost("diffusion", (trained,), 1, trained=transformer, used=0, largest=transformer, **sizes),
        StageCost(
            "distill", (forward, forward, trained), 1, trained=transformer, used=transformer, largest=transformer,
            **sizes,
        ),
        StageCost("adversarial", adversarial, 4, trained=both, used=0, largest=largest, heads=heads, **sizes),
    ]  # fmt: skip
    return {stage.name: stage for stage in found}


@dataclass(frozen=True)
class Gpu:
    """peak: operations a second in bfloat16; bandwidth: of its memory, bytes a second; both as the maker states them.
    reached: the share of both that is reached; 778 TFLOP/s of an H100 were measured in large products, and the same
    share of its bandwidth gives the measured steps (docs/training.md)."""

    peak: float = 989e12
    bandwidth: float = 3.35e12
    reached: float = 0.79


@dataclass(frozen=True)
class StepTime:
    """seconds: of a step. issuing: those of its parts that take as long as the host issues them; where that is most of
    a step, `seconds` depends on the host and no longer on the clip."""

    seconds: float
    issuing: float

    @property
    def host_bound(self) -> bool:
        return self.issuing > self.seconds / 2


def step_time(
    stage: StageCost, config: NaDiTConfig, flops: float, tokens: float, gpu: Gpu, traffic: float = BLOCK_TRAFFIC
) -> StepTime:
    """How long a step takes on latents. Products and memory traffic follow one another; the host runs beside them, and
    the slower of the two counts in each part. Communication is taken to be hidden.

    Args:
        flops: of one forward pass on one version of the batch, on this GPU.
        tokens: of the batch, texts included, on this GPU.
        traffic: bytes a token, channel and block that a pass reads and writes.
    """
    product = flops / (gpu.peak * gpu.reached)
    moved = traffic * tokens * config.dim * config.num_layers / (gpu.bandwidth * gpu.reached)
    device = [part.products * product + part.traffic * moved for part in stage.parts]
    host = [part.issued * config.num_layers * HOST_SECONDS for part in stage.parts]
    times = list(zip(device, host, strict=True))
    return StepTime(sum(map(max, times)), sum(issuing for work, issuing in times if issuing > work))


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
    trained = WEIGHT + MOMENT * stage.moments
    return {
        "state": (trained * stage.trained + AVERAGED * stage.averaged + USED * stage.used) / sharding.state
        + VAE_BYTES * vae,
        "gathered": GATHERED * (stage.trained + stage.used) * (1 if sharding.whole else 2 / config.num_layers),
        "one block": (BLOCK_BYTES - (stays if again == config.num_layers else 0)) * numbers,
        "inputs or gradients": max(kept, GRADIENT * stage.largest / sharding.state),
    }
