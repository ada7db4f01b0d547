"""How to stay within a given amount of device memory: the fastest way of running that is predicted to fit.

The prediction counts tensors from the networks' shapes; docs/performance.md compares it with measurements. In GiB.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import nn

from common.residency import Residency
from models.nadit.config import NaDiTConfig
from models.nadit.mlp import set_token_chunk
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.tiling import tile_spans

GIB = 2**30
OVERHEAD = 0.6  # what libraries take whatever the size
WORKSPACE = 1.25  # of the VAE's largest working set, with the convolutions' workspaces; measured at 720p
TOKEN_CHUNK = 8192
TILE_OVERLAP = 8  # latents
SMALLEST_TILE = 32


@dataclass(frozen=True)
class MemoryPlan:
    """How a clip is run.

    vae_frames: most frames at full resolution that go through the VAE's widest level at once; None: a whole slice.
    conv_max_mem: the same as a bound for `VideoAutoencoderKL.set_memory_limit`, GiB.
    tile: side of the VAE's tiles in latents; None: the whole picture.
    token_chunk: most tokens in a feed-forward layer at once; None: all.
    offload: "none": both networks stay on the device; "models": one at a time; "blocks": the transformer's blocks one
        after the other.
    prefetch: the transformer's weights travel while the VAE still encodes.
    storage_8_bit: keep the transformer's weights as 8-bit floats between uses.
    predicted: peak of "encode", "transformer", "decode", GiB.
    """

    vae_frames: int | None = None
    conv_max_mem: float | None = None
    tile: int | None = None
    token_chunk: int | None = None
    offload: str = "none"
    prefetch: bool = False
    storage_8_bit: bool = False
    predicted: tuple[tuple[str, float], ...] = ()

    @property
    def predicted_peak_gib(self) -> float:
        return max((gib for _, gib in self.predicted), default=0.0)

    def describe(self) -> str:
        """One line for the user."""
        parts = [
            {"none": "both networks stay on the device", "models": "one network at a time on the device"}.get(
                self.offload, "the transformer's blocks travel one after the other"
            ),
            "VAE slices whole" if self.vae_frames is None else f"VAE at most {self.vae_frames} frames at full size",
        ]
        parts += [f"VAE tiles of {self.tile} latents"] if self.tile else []
        parts += [f"{self.token_chunk} tokens at once in feed-forward layers"] if self.token_chunk else []
        parts += ["8-bit weights"] if self.storage_8_bit else []
        peaks = ", ".join(f"{stage} {gib:.1f}" for stage, gib in self.predicted)
        return f"{'; '.join(parts)}; predicted peak {self.predicted_peak_gib:.1f} GiB ({peaks})"


@dataclass(frozen=True)
class Workload:
    """A clip and the networks it goes through.

    dit_bytes, vae_bytes: of weights on the device. itemsize: bytes of a number. frames, height, width: padded, pixels.
    """

    vae: VideoAutoencoderKL
    dit: NaDiTConfig
    dit_bytes: int
    vae_bytes: int
    frames: int
    height: int
    width: int
    itemsize: int = 2


def weight_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def plan(vram_gib: float, work: Workload) -> MemoryPlan:
    """The fastest plan predicted to stay within `vram_gib`.

    Raises:
        ValueError: nothing fits; says what the smallest plan needs.
    """
    smallest = None
    for candidate in candidates(work):
        candidate = replace(candidate, predicted=tuple(predict(candidate, work).items()))
        if candidate.predicted_peak_gib <= vram_gib:
            together = dict(candidate.predicted)["encode"] + work.dit_bytes / GIB
            return replace(candidate, prefetch=candidate.offload == "models" and together <= vram_gib)
        if smallest is None or candidate.predicted_peak_gib < smallest.predicted_peak_gib:
            smallest = candidate
    raise ValueError(
        f"{work.frames} frames of {work.width}x{work.height} do not fit into {vram_gib:g} GiB: the smallest way needs "
        f"{smallest.predicted_peak_gib:.1f} GiB ({smallest.describe()}); use a smaller size or fewer frames"
    )


def candidates(work: Workload) -> Iterator[MemoryPlan]:
    """Ways of running, roughly from the fastest to the smallest."""
    tiles = [None]
    tile = max(work.height, work.width) // work.vae.spatial_factor
    while tile > SMALLEST_TILE:
        tile = max(ceil(tile * 0.75 / 8) * 8, SMALLEST_TILE)
        tiles.append(tile)
    whole = [("none", None, None), ("models", None, None), ("models", 2, None), ("models", 1, None)]
    for offload, frames, tile in [*whole, *(("models", 1, tile) for tile in tiles[1:])]:
        for chunk, blocks, eight_bit in (
            (None, False, False), (TOKEN_CHUNK, False, False), (TOKEN_CHUNK, False, True), (TOKEN_CHUNK, True, False)
        ):  # fmt: skip
            if offload == "none" and (blocks or eight_bit):
                continue
            limit = None if frames is None else conv_bound(work, frames, tile) / GIB
            yield MemoryPlan(frames, limit, tile, chunk, "blocks" if blocks else offload, storage_8_bit=eight_bit)


def predict(way: MemoryPlan, work: Workload) -> dict[str, float]:
    """Peak by stage, GiB."""
    dit_gib, vae_gib = work.dit_bytes / GIB, work.vae_bytes / GIB
    if way.storage_8_bit:
        dit_gib *= 0.55  # norms, embeddings and the block at work stay as they are
    blocks_gib = dit_gib if way.offload != "blocks" else 3 * dit_gib / work.dit.num_layers
    resident = way.offload == "none"
    pixels_gib = 3 * work.frames * work.height * work.width * work.itemsize / GIB
    if way.tile is not None:
        pixels_gib = 0.0  # collected on the host
    beside = OVERHEAD + vae_gib + (dit_gib if resident else 0)
    encode, decode = vae_gib_of(work, way, "encode"), vae_gib_of(work, way, "decode")
    return {
        "encode": beside + encode + pixels_gib,
        "transformer": OVERHEAD + blocks_gib + (vae_gib + pixels_gib if resident else 0) + transformer_gib(work, way),
        "decode": beside + decode + pixels_gib * (2 if resident else 1),
    }


def transformer_gib(work: Workload, way: MemoryPlan) -> float:
    """Activations of one block: stream, normed copy, projections, windows and attention's output; or the MLP's."""
    pt, ph, pw = work.dit.patch_size
    latent = (work.frames - 1) // work.vae.temporal_factor + 1
    grid = [work.height // work.vae.spatial_factor // ph, work.width // work.vae.spatial_factor // pw]
    tokens = latent // pt * grid[0] * grid[1]
    width, inner = work.dit.dim, work.dit.heads * work.dit.head_dim
    attention = tokens * (2 * width + 3 * inner + 3.3 * inner + 1.1 * inner)
    hidden = 2 * 256 * ceil(int(2 * width * work.dit.expand_ratio / 3) / 256)
    hidden = hidden if work.dit.mlp == "swiglu" else 2 * width * work.dit.expand_ratio
    chunk = tokens if way.token_chunk is None else min(tokens, way.token_chunk)
    feed_forward = tokens * 3 * width + chunk * (hidden + width)
    tables = tokens * (2 * 2 * 64 * 4 + 2 * 16)  # cosines, sines and indices of both ways to cut windows
    return (max(attention, feed_forward) * work.itemsize + tables) / GIB


def conv_bound(work: Workload, frames: int, tile: int | None) -> int:
    """The bound on a convolution's input that lets `frames` frames of the widest level through at once."""
    height, width = _picture(work, tile)
    return ceil((frames + 2) * height * width * _widest(work.vae.decoder.up_blocks[-1]) * work.itemsize)


def vae_gib_of(work: Workload, way: MemoryPlan, stage: str) -> float:
    """Carried frames of all convolutions plus the largest working set of a level."""
    height, width = _picture(work, way.tile)
    blocks = list(work.vae.encoder.down_blocks if stage == "encode" else reversed(work.vae.decoder.up_blocks))
    full_frames = min(work.frames, work.vae.split_size or work.frames)
    carried, working = 0.0, 0.0
    for level, block in enumerate(blocks):
        pixels = height * width / 4**level
        halvings = sum(_halves_time(other, stage) for other in blocks[:level] if stage == "encode")
        if stage == "decode":
            halvings = sum(_halves_time(other, stage) for other in blocks[1 : level + 1])
        frames = max(full_frames // 2**halvings, 1)
        if way.conv_max_mem is not None:
            most = way.conv_max_mem * GIB / (pixels * _widest(block) * work.itemsize) - 2
            frames = max(min(frames, int(most)), 1)
        convs = [m for m in block.modules() if isinstance(m, CausalConv3d) and m.kernel_size[0] == 3]
        past = 2 if work.frames > 1 else 0
        carried += sum(past * pixels * conv.in_channels for conv in convs)
        for resnet in block.resnets:
            inner, outer = resnet.conv1.in_channels, resnet.conv1.out_channels
            first = (2 * frames + past) * inner + frames * outer  # the input, its norm, the first convolution's result
            second = frames * inner + (3 * frames + past) * outer
            working = max(working, pixels * first, pixels * second)
    return (carried + WORKSPACE * working) * work.itemsize / GIB


def install(way: MemoryPlan, vae: VideoAutoencoderKL, dit: nn.Module, device: torch.device) -> Residency:
    """Set the networks' bounds and put their weights where the plan wants them; tiles are up to whoever runs the VAE.

    Returns:
        What moves "vae" and "dit". With `offload="blocks"` the transformer moves by itself, through diffusers' hooks.
    """
    vae.set_memory_limit(way.conv_max_mem)
    set_token_chunk(dit, way.token_chunk)
    if way.storage_8_bit:
        store_in_8_bits(dit)
    if way.offload == "blocks":
        offload_blocks(dit, device)
        return Residency({"vae": vae}, device, one_at_a_time=True)
    return Residency({"vae": vae, "dit": dit}, device, one_at_a_time=way.offload == "models" and device.type != "cpu")


def store_in_8_bits(dit: nn.Module) -> None:
    """Keep the weights of linear layers as 8-bit floats and cast each layer when it computes (diffusers' casting).

    The last block stays as it is: in 8 bits it leaves a pattern in the 7B's pictures.
    """
    from diffusers.hooks import apply_layerwise_casting

    weight = next(dit.parameters())
    keep = ("norm", "ada", "rope", "emb_in", "txt_in", "vid_in", "vid_out", rf"blocks\.{len(dit.blocks) - 1}\.")
    apply_layerwise_casting(dit, torch.float8_e4m3fn, weight.dtype, skip_modules_pattern=keep)


def offload_blocks(dit: nn.Module, device: torch.device) -> None:
    """Blocks come to the device one by one, the next one while the last computes (diffusers' group offloading)."""
    from diffusers.hooks import apply_group_offloading

    cuda = device.type == "cuda"
    dit.to("cpu")
    apply_group_offloading(
        dit, device, torch.device("cpu"), "block_level", num_blocks_per_group=1, use_stream=cuda, non_blocking=cuda
    )


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
