"""How much device memory a way of running takes: tensors counted from the networks' shapes, in GiB.

docs/performance.md compares it with measurements.
"""

from dataclasses import dataclass
from math import ceil, prod

from torch import nn

from common.kernels.frame_norm import query_rows, scores_bytes
from models.nadit.config import NaDiTConfig
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.rolling import Rolling, has_turns
from models.video_vae_v3.modules.tiling import tile_spans

GIB = 2**30
OVERHEAD = 0.6  # what libraries take in the VAE whatever the size: cuDNN's convolutions
TRANSFORMER_OVERHEAD = 0.15
WORKSPACE = 1.25  # of the VAE's largest working set, with the convolutions' workspaces; measured at 720p
TILE_OVERLAP = 8  # latents
FLOAT = 4  # bytes: pixels are float32 outside the networks
RESIZING = 3  # a frame as it comes, as floats, and half way through the resize
FINISHING = 8  # pictures that a colour fix and the rounding hold at once
FINISH_FRAMES = 5  # a slice is finished so many frames at a time


@dataclass(frozen=True)
class MemoryPlan:
    """How a clip is run.

    vae_frames: most frames at full resolution that go through the VAE's widest level at once; None: a whole slice.
    conv_max_mem: the same as a bound for `VideoAutoencoderKL.set_memory_limit`, GiB.
    slice_frames: frames of the pipeline's slices after the first; None: as many as it would take anyway.
    tile: side of the VAE's tiles in latents; None: the whole picture.
    token_chunk: most tokens in a feed-forward layer at once; None: all.
    offload: "none": both networks stay on the device; "models": one at a time; "blocks": the transformer's blocks one
        after the other.
    prefetch: the transformer's weights travel while the VAE still encodes.
    park: what the VAE carries from slice to slice of a long clip waits on the host while others compute.
    storage_8_bit: keep the transformer's weights as 8-bit floats between uses.
    predicted: peak of "encode", "transformer", "decode", GiB.
    """

    vae_frames: int | None = None
    conv_max_mem: float | None = None
    slice_frames: int | None = None
    tile: int | None = None
    token_chunk: int | None = None
    offload: str = "none"
    prefetch: bool = False
    park: bool = False
    storage_8_bit: bool = False
    predicted: tuple[tuple[str, float], ...] = ()

    @property
    def predicted_peak_gib(self) -> float:
        return max((gib for _, gib in self.predicted), default=0.0)

    @property
    def cuts(self) -> bool:
        """Does it do anything that unbounded memory would not need?"""
        return self != MemoryPlan(storage_8_bit=self.storage_8_bit, predicted=self.predicted)

    def describe(self) -> str:
        """One line for the user."""
        parts = [
            {"none": "both networks stay on the device", "models": "one network at a time on the device"}.get(
                self.offload, "the transformer's blocks travel one after the other"
            )
        ]
        parts += [f"slices of {self.slice_frames} frames"] if self.slice_frames else []
        one = "frame" if self.vae_frames == 1 else "frames"
        parts += [
            "VAE slices whole" if self.vae_frames is None else f"VAE at most {self.vae_frames} {one} at full size"
        ]
        parts += [f"VAE tiles of {self.tile} latents (not exact)"] if self.tile else []
        parts += [f"{self.token_chunk} tokens at once in feed-forward layers"] if self.token_chunk else []
        parts += ["carried frames wait on the host"] if self.park else []
        parts += ["8-bit weights (not exact)"] if self.storage_8_bit else []
        peaks = ", ".join(f"{stage} {gib:.1f}" for stage, gib in self.predicted)
        return f"{'; '.join(parts)}; predicted peak {self.predicted_peak_gib:.1f} GiB ({peaks})"


@dataclass(frozen=True)
class Workload:
    """A clip and the networks it goes through.

    dit_bytes, vae_bytes: of the weights in the dtype they compute in.
    frames, height, width: padded, pixels; of a streamed clip the longest window.
    itemsize: bytes of a number.
    streamed: the clip comes and goes in slices; otherwise its pixels lie on the device.
    slice_frames: frames of a slice after the first; None: the VAE's own.
    long: more windows follow the first, so what both halves of the VAE carry is kept meanwhile.
    source: pixels of a frame before it is resized.
    texts: embeddings with a layout each; two with guidance.
    ranks: that share the clip. sharded: each has a part of the transformer's weights.
    storage_8_bit: the user wants the transformer's weights kept as 8-bit floats.
    """

    vae: VideoAutoencoderKL
    dit: NaDiTConfig
    dit_bytes: int
    vae_bytes: int
    frames: int
    height: int
    width: int
    itemsize: int = 2
    streamed: bool = False
    slice_frames: int | None = None
    long: bool = False
    source: int = 0
    texts: int = 1
    ranks: int = 1
    sharded: bool = False
    storage_8_bit: bool = False

    @property
    def pixels(self) -> int:
        return self.height * self.width


def weight_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def predict(way: MemoryPlan, work: Workload) -> dict[str, float]:
    """Peak by stage, GiB."""
    vae_gib, dit_gib = work.vae_bytes / GIB, _dit_gib(way, work)
    resident = way.offload == "none"
    carried = {stage: carried_gib(work, way, stage) for stage in ("encode", "decode")}
    # Of the halves of the VAE that do not run now. Those of tiles wait on the host anyway.
    kept = carried if work.long and not way.park and way.tile is None else dict.fromkeys(carried, 0.0)
    beside = OVERHEAD + vae_gib + (dit_gib if resident else 0)
    before, after = _pixels_gib(way, work)
    encode, decode = (carried[stage] + working_gib(work, way, stage) for stage in carried)
    finishing = min(_slice_frames(way, work), FINISH_FRAMES) * FINISHING * 3 * work.pixels * FLOAT / GIB
    if work.streamed:  # pictures are finished when the decoder's working set is gone
        decode = max(decode, carried["decode"] + finishing)
    between = 0.0 if work.streamed else before
    return {
        "encode": beside + encode + before + kept["decode"],
        "transformer": TRANSFORMER_OVERHEAD
        + dit_gib
        + (vae_gib + between if resident else 0)
        + transformer_gib(work, way)
        + sum(kept.values()),
        "decode": beside + decode + after + kept["encode"],
    }


def _dit_gib(way: MemoryPlan, work: Workload) -> float:
    """What of the transformer's weights is on the device while it computes."""
    gib, of_block = work.dit_bytes / GIB, work.dit_bytes / GIB / work.dit.num_layers
    if work.sharded:
        gib = gib / work.ranks + 2 * of_block  # gathered: the block at work and the next one
    if way.storage_8_bit:
        gib *= 0.55  # norms, embeddings and the layer at work stay as they are
    return 3 * of_block if way.offload == "blocks" else gib


def _pixels_gib(way: MemoryPlan, work: Workload) -> tuple[float, float]:
    """Pixels on the device beside the networks' own tensors while encoding, and while decoding."""
    if not work.streamed:
        whole = 3 * work.frames * work.pixels * work.itemsize / GIB
        if way.tile is not None:
            return 0.0, 0.0  # collected on the host
        return whole, whole * (2 if way.offload == "none" else 1)
    frames = 1 + _slice_frames(way, work)
    source = 3 * work.source * FLOAT * RESIZING / GIB
    if way.tile is not None:  # slices wait on the host; a tile of one is small
        return source, source
    plane = 3 * work.pixels / GIB
    # Waiting frames and their stack, in the networks' dtype when they go in; the same twice when they come out.
    return frames * plane * (2 * FLOAT + work.itemsize) + source, frames * plane * 2 * work.itemsize + source


def _slice_frames(way: MemoryPlan, work: Workload) -> int:
    """Frames of a slice after the clip's first one."""
    return min(way.slice_frames or work.slice_frames or work.vae.split_size or work.frames, work.frames)


def transformer_gib(work: Workload, way: MemoryPlan) -> float:
    """Activations of one block: stream, normed copy, projections, windows and attention's output; or the MLP's."""
    pt, ph, pw = work.dit.patch_size
    latent = (work.frames - 1) // work.vae.temporal_factor + 1
    grid = [work.height // work.vae.spatial_factor // ph, work.width // work.vae.spatial_factor // pw]
    tokens = latent // pt * grid[0] * grid[1]
    width, inner = work.dit.dim, work.dit.heads * work.dit.head_dim
    # What attention made is there three times at the end: by window size, all together, and in the tokens' order.
    attention = tokens * (2 * width + 3 * inner + 3.3 * inner + 3.2 * inner)
    hidden = 2 * 256 * ceil(int(2 * width * work.dit.expand_ratio / 3) / 256)
    hidden = hidden if work.dit.mlp == "swiglu" else 2 * width * work.dit.expand_ratio
    chunk = tokens if way.token_chunk is None else min(tokens, way.token_chunk)
    feed_forward = tokens * 3 * width + chunk * (hidden + width)
    tables = tokens * (2 * 2 * 64 * 4 + 2 * 16)  # cosines, sines and indices of both ways to cut windows
    return (max(attention, feed_forward) * work.itemsize + work.texts * tables) / GIB


def conv_bound(work: Workload, frames: int, tile: int | None) -> int:
    """The bound on a convolution's input that lets `frames` frames of the widest level through at once."""
    height, width = _picture(work, tile)
    return ceil((frames + 2) * height * width * _widest(work.vae.decoder.up_blocks[-1]) * work.itemsize)


def carried_gib(work: Workload, way: MemoryPlan, stage: str) -> float:
    """The frames that the convolutions of the encoder or the decoder keep for the next slice."""
    if work.frames == 1:
        return 0.0
    height, width = _picture(work, way.tile)
    carried = 0.0
    for level, block in enumerate(_levels(work, stage)):
        pixels = height * width / 4**level
        convs = [m for m in block.modules() if isinstance(m, CausalConv3d) and m.kernel_size[0] == 3]
        frames = 3 if _rolls(block, pixels, work, way) else 2
        carried += sum(frames * pixels * conv.in_channels for conv in convs)
    return carried * work.itemsize / GIB


def working_gib(work: Workload, way: MemoryPlan, stage: str) -> float:
    """The largest working set of a level of the encoder or the decoder."""
    height, width = _picture(work, way.tile)
    blocks = _levels(work, stage)
    # Tiles go through in the VAE's own slices, however long those of the pipeline are.
    slice_frames = _slice_frames(way, work) if way.tile is None else work.vae.split_size or work.frames
    full_frames = min(work.frames, slice_frames)
    working = 0.0
    for level, block in enumerate(blocks):
        past = 2 if work.frames > 1 else 0
        pixels = height * width / 4**level
        halvings = sum(_halves_time(other, stage) for other in blocks[:level] if stage == "encode")
        if stage == "decode":
            halvings = sum(_halves_time(other, stage) for other in blocks[1 : level + 1])
        frames = max(full_frames // 2**halvings, 1)
        if way.conv_max_mem is not None:
            most = way.conv_max_mem * GIB / (pixels * _widest(block) * work.itemsize) - 2
            frames = max(min(frames, int(most)), 1)
        if _rolls(block, pixels, work, way):
            frames, past = 1, 0
        for resnet in block.resnets:
            inner, outer = resnet.conv1.in_channels, resnet.conv1.out_channels
            first = (2 * frames + past) * inner + frames * outer  # the input, its norm, the first convolution's result
            second = frames * inner + (3 * frames + past) * outer
            working = max(working, pixels * first, pixels * second)
    return max(WORKSPACE * working * work.itemsize / GIB, _attention_gib(work, way, full_frames))


def _attention_gib(work: Workload, way: MemoryPlan, frames: int) -> float:
    """The working set of the attention in the VAE's middle: scores of a chunk of queries, and what is beside them."""
    pixels = prod(n // work.vae.spatial_factor for n in _picture(work, way.tile))
    frames = max(1, frames // work.vae.temporal_factor)
    channels = work.vae.encoder.mid_block.attentions[0].to_q.in_features
    bound = scores_bytes(None if way.conv_max_mem is None else way.conv_max_mem * GIB)
    rows = min(pixels, query_rows(pixels, work.itemsize, bound))
    of_scores = rows * pixels * (FLOAT + work.itemsize)
    return (of_scores + 6 * frames * pixels * channels * work.itemsize) / GIB


def _rolls(block: nn.Module, pixels: float, work: Workload, way: MemoryPlan) -> bool:
    """Do frames go through this level one by one, and carried ones stay in their places? Where nothing else cuts them.

    The VAE decides it at the start of a clip, see `models.video_vae_v3.modules.rolling`.
    """
    allowed = work.vae.rolls is not False and way.conv_max_mem is None and work.ranks == 1
    return allowed and has_turns(block.resnets[0].conv1) and work.frames > 1 and pixels >= Rolling.smallest


def _levels(work: Workload, stage: str) -> list[nn.Module]:
    """Blocks from the widest picture to the smallest."""
    return list(work.vae.encoder.down_blocks if stage == "encode" else reversed(work.vae.decoder.up_blocks))


def _picture(work: Workload, tile: int | None) -> tuple[int, int]:
    scale = work.vae.spatial_factor
    if tile is None:
        return work.height, work.width
    spans = [tile_spans(n // scale, tile, TILE_OVERLAP)[0] for n in (work.height, work.width)]
    return tuple((stop - start) * scale for start, stop in spans)


def _widest(block: nn.Module) -> int:
    return max(max(r.conv1.in_channels, r.conv1.out_channels) for r in block.resnets)


def _halves_time(block: nn.Module, stage: str) -> bool:
    samplers = block.downsamplers if stage == "encode" else block.upsamplers
    if not len(samplers):
        return False
    return samplers[0].conv.stride[0] == 2 if stage == "encode" else samplers[0].time_factor == 2
