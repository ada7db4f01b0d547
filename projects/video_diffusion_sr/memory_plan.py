"""How to stay within a given amount of device memory: the fastest way of running that is predicted to fit.

Whatever changes the result (tiles) comes last; 8-bit weights are never chosen here but asked for.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

import torch
from torch import nn

from common.kernels.minimal_filter import GIVEN
from common.residency import Residency
from models.nadit.mlp import set_token_chunk
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from projects.video_diffusion_sr.memory_prediction import (
    GIB,
    TILE_OVERLAP,
    conv_bound,
    predict,
    weight_bytes,
)
from projects.video_diffusion_sr.memory_ways import MemoryPlan, Workload

__all__ = ["TILE_OVERLAP", "MemoryPlan", "Workload", "install", "plan", "predict", "smallest", "weight_bytes"]

SAFETY = 1.03  # for what differs from the runs that predictions were fitted to, none of which took more than predicted
TOKEN_CHUNK = 8192
SMALLEST_TILE = 32  # latents
TILED_SLICE = 32  # frames: what a tile carries goes to the host and back once a slice
SHORTEST_SLICE = 2  # latent frames, where ranks share a clip: with one, each would wait for the one before


def plan(vram_gib: float, work: Workload, blocks: bool = False) -> MemoryPlan:
    """The fastest plan predicted to stay within `vram_gib`.

    Args:
        blocks: only plans in which the transformer's blocks travel.
    Raises:
        ValueError: nothing fits; says what the smallest plan needs.
    """
    for candidate in candidates(work):
        if blocks and candidate.offload != "blocks":
            continue
        candidate = replace(candidate, predicted=tuple(predict(candidate, work).items()))
        if candidate.predicted_peak_gib * SAFETY <= vram_gib:
            together = dict(candidate.predicted)["encode"] + work.dit_bytes / GIB
            return replace(candidate, prefetch=candidate.offload == "models" and together * SAFETY <= vram_gib)
    least = smallest(work)
    needed = ceil(least.predicted_peak_gib * SAFETY * 10) / 10
    raise ValueError(
        f"{work.frames} frames of {work.width}x{work.height} do not fit into {vram_gib:g} GiB: the smallest way needs "
        f"{needed:.1f} GiB ({least.describe()}); give it that much, or use a smaller size or fewer frames at once"
    )


def smallest(work: Workload) -> MemoryPlan:
    """The plan predicted to take least."""
    ways = [replace(way, predicted=tuple(predict(way, work).items())) for way in candidates(work)]
    return min(ways, key=lambda way: way.predicted_peak_gib)


def candidates(work: Workload) -> Iterator[MemoryPlan]:
    """Ways of running, roughly from the fastest to the smallest."""
    lengths = _slice_lengths(work)
    last = "none" if work.sharded else "models"
    ways = []
    for offload in ("none",) if work.sharded else ("none", "models"):
        if work.ranks > 1:
            ways += [MemoryPlan(offload=offload, slice_frames=length) for length in lengths]
            continue
        usual = MemoryPlan(offload=offload)
        ways += [replace(usual, slice_frames=_slice_of_fours(work)), usual, replace(usual, fours=False)]
    if work.ranks == 1:
        ways.append(MemoryPlan(offload="models", fours=False, lean=True))
    bounded = MemoryPlan(offload=last, slice_frames=lengths[-1])
    ways += [replace(bounded, vae_frames=frames) for frames in (2, 1)]
    tiled = MemoryPlan(offload="models", vae_frames=1, slice_frames=TILED_SLICE if work.streamed else None)
    ways += [replace(tiled, tile=tile) for tile in _tiles(work)]
    for way in ways:
        limit = None if way.vae_frames is None else conv_bound(work, way.vae_frames, way.tile) / GIB
        alone = work.long and work.ranks == 1 and way.offload != "none"
        way = replace(way, conv_max_mem=limit, park=alone, storage_8_bit=work.storage_8_bit)
        yield way
        yield replace(way, token_chunk=TOKEN_CHUNK)
        if way.offload != "none":
            yield replace(way, token_chunk=TOKEN_CHUNK, offload="blocks")


def _slice_lengths(work: Workload) -> list[int | None]:
    """None, what would be taken anyway; where ranks share a clip, also shorter ones, from long to short."""
    lengths: list[int | None] = [None]
    if work.ranks > 1:
        factor = work.vae.temporal_factor
        latents = (work.slice_frames or factor) // factor // 2
        while latents >= SHORTEST_SLICE:
            lengths.append(latents * factor)
            latents //= 2
    return lengths


def _slice_of_fours(work: Workload) -> int | None:
    """Frames of the shortest slice of which every level that may go by fours has four; None: the usual one has."""
    twice = work.vae.decoder.up_blocks[0].upsamplers[0].time_factor  # the level below does not go by fours
    frames = GIVEN * work.vae.temporal_factor // twice
    usual = work.slice_frames or work.vae.split_size
    return None if usual is None or usual >= frames or work.frames <= frames else frames


def _tiles(work: Workload) -> Iterator[int]:
    """Sides of tiles, ever smaller; none where ranks share a clip and hand each other what whole pictures carry."""
    tile = max(work.height, work.width) // work.vae.spatial_factor
    while tile > SMALLEST_TILE and work.ranks == 1:
        tile = max(ceil(tile * 0.75 / 8) * 8, SMALLEST_TILE)
        yield tile


@torch.inference_mode(False)  # weights that were moved inside of it could not be used outside
def install(way: MemoryPlan, vae: VideoAutoencoderKL, dit: nn.Module, device: torch.device) -> Residency:
    """Set the networks' bounds and put their weights where the plan wants them; tiles are up to whoever runs the VAE.

    Returns:
        What moves "vae" and "dit". With `offload="blocks"` the transformer moves by itself, through diffusers' hooks.
    """
    set_bounds(way, vae, dit)
    if way.storage_8_bit:
        store_in_8_bits(dit)
    if way.offload == "blocks":
        offload_blocks(dit, device)
        return Residency({"vae": vae}, device, one_at_a_time=True)
    return Residency({"vae": vae, "dit": dit}, device, one_at_a_time=way.offload == "models")


def set_bounds(way: MemoryPlan, vae: VideoAutoencoderKL, dit: nn.Module) -> None:
    """The part of a plan that may change from clip to clip."""
    vae.set_memory_limit(way.conv_max_mem)
    vae.rolls, vae.lean, vae.fours = way.rolls, way.lean, None if way.fours else False
    set_token_chunk(dit, way.token_chunk)


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
