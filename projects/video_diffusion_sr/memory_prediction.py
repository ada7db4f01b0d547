"""How much device memory a way of running takes: tensors counted from the networks' shapes, in GiB.

docs/performance.md compares it with measurements.
"""

from math import ceil, prod

from torch import nn

from common.kernels.frame_norm import query_rows, scores_bytes
from common.kernels.minimal_filter import GIVEN
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.fours import BAND_BYTES, has_filter
from models.video_vae_v3.modules.rolling import AUTOMATIC, has_turns, smallest_rolled
from models.video_vae_v3.modules.tiling import tile_spans
from projects.video_diffusion_sr.memory_ways import MemoryPlan, Workload, by_fours

GIB = 2**30
OVERHEAD = 0.6  # what libraries take in the VAE whatever the size: cuDNN's convolutions
TRANSFORMER_OVERHEAD = 0.15
WORKSPACE = 1.25  # of the VAE's largest working set, with the convolutions' workspaces; measured at 720p
TILE_OVERLAP = 8  # latents
LEAN_BANDS = 1.4  # frames, of what a convolution of rolling frames gathers where they are lean
LEAN_DOWN = 2  # frames that wait in a downsampler's input beside those carried; three places of a ring cover them
FLOAT = 4  # bytes: pixels are float32 outside the networks
RESIZING = 3  # a frame as it comes, as floats, and half way through the resize
FINISHING = 8  # pictures that a colour fix and the rounding hold at once
FINISH_FRAMES = 5  # a slice is finished so many frames at a time


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
    attention = tokens * (2 * width + 3 * inner + 3.3 * inner + 3.26 * inner)
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
        frames = 3 if _rolls(block, level, work, way) and not way.lean else 2
        carried += sum(frames * pixels * conv.in_channels for conv in convs)
    return carried * work.itemsize / GIB


def working_gib(work: Workload, way: MemoryPlan, stage: str) -> float:
    """The largest working set of a level of the encoder or the decoder."""
    height, width = _picture(work, way.tile)
    past = 2 if work.frames > 1 else 0
    working = waiting = 0.0
    for level, block in reversed(list(enumerate(_levels(work, stage)))):
        pixels, rolls = height * width / 4**level, _rolls(block, level, work, way)
        frames, fours = _level_frames(level, work, way, stage), _takes_fours(block, level, work, way)
        before, beside = 0 if rolls else past, waiting
        workspace = 1.0 if fours and stage == "encode" else WORKSPACE  # products need none, but those of upsamplers
        if fours:
            # A halving convolution's input is written as the last resnet goes. Of rows of pixels, for a band.
            down = pixels * (frames + past) * _outer(block) if stage == "encode" and len(block.downsamplers) else 0.0
            beside += down + BAND_BYTES / workspace / work.itemsize
        if rolls and way.lean:
            before = LEAN_BANDS
            beside += pixels * LEAN_DOWN * _outer(block) if stage == "encode" and len(block.downsamplers) else 0.0
        for resnet in block.resnets:
            inner, outer = resnet.conv1.in_channels, resnet.conv1.out_channels
            if fours:  # the input, in whose place the result comes where it fits, and the first convolution's result
                wider = frames * outer if outer > inner else 0
                working = max(working, workspace * (pixels * (frames * (inner + outer) + wider) + beside))
                continue
            first = (2 * frames + before) * inner + frames * outer  # the input, its norm, the first one's result
            second = frames * inner + (3 * frames + before) * outer
            working = max(working, workspace * (pixels * max(first, second) + beside))
        # What an upsampler reads waits while its results go one by one or by fours through the level above.
        at_once = fours and not (stage == "decode" and _halves_time(block, stage))
        waiting = pixels * (frames + past) * outer if stage == "decode" and not (rolls or at_once) else 0.0
    return max(working * work.itemsize / GIB, _attention_gib(work, way, _full_frames(work, way)))


def _full_frames(work: Workload, way: MemoryPlan) -> int:
    """Frames of full size that go through the VAE at once; tiles take its own slices, not those of the pipeline."""
    return min(work.frames, _slice_frames(way, work) if way.tile is None else work.vae.split_size or work.frames)


def _level_frames(level: int, work: Workload, way: MemoryPlan, stage: str) -> int:
    """Frames that go through a level at once, as `FastPath` cuts them."""
    blocks = _levels(work, stage)
    block = blocks[level]
    if _rolls(block, level, work, way):
        return 1
    if _takes_fours(block, level, work, way):
        return GIVEN
    halving = blocks[:level] if stage == "encode" else blocks[1 : level + 1]
    frames = max(_full_frames(work, way) // 2 ** sum(_halves_time(other, stage) for other in halving), 1)
    if way.conv_max_mem is None:
        return frames
    height, width = _picture(work, way.tile)
    frame_gib = height * width / 4**level * _widest(block) * work.itemsize / GIB
    most, multiple = int(way.conv_max_mem / frame_gib) - 2, 1
    if stage == "decode" and level:  # what its upsampler makes of them counts as well
        most = min(most, int(way.conv_max_mem / (frame_gib * 4 * (1 + _halves_time(block, stage)))))
    elif stage == "encode" and level + 1 < len(blocks):
        multiple = 2
    return min(frames, max(most // multiple, 1) * multiple)


def _attention_gib(work: Workload, way: MemoryPlan, frames: int) -> float:
    """The working set of the attention in the VAE's middle: scores of a chunk of queries, and what is beside them."""
    pixels = prod(n // work.vae.spatial_factor for n in _picture(work, way.tile))
    frames = max(1, frames // work.vae.temporal_factor)
    channels = work.vae.encoder.mid_block.attentions[0].to_q.in_features
    bound = scores_bytes(None if way.conv_max_mem is None else way.conv_max_mem * GIB)
    rows = min(pixels, query_rows(pixels, work.itemsize, bound))
    of_scores = rows * pixels * (FLOAT + work.itemsize)
    return (of_scores + 6 * frames * pixels * channels * work.itemsize) / GIB


def _rolls(block: nn.Module, level: int, work: Workload, way: MemoryPlan) -> bool:
    """Do frames go through this level one by one, and carried ones stay in their places?"""
    return not by_fours(way) and has_turns(block.resnets[0].conv1) and _is_large(level, work, way)


def _takes_fours(block: nn.Module, level: int, work: Workload, way: MemoryPlan) -> bool:
    """Do frames go through this level by fours?"""
    return by_fours(way) and has_filter(block.resnets[0].conv1) and _is_large(level, work, way)


def _is_large(level: int, work: Workload, way: MemoryPlan) -> bool:
    """Does the VAE see such pictures as large? It decides at the start of a clip: unasked, where nothing cuts."""
    rolls = way.rolls or (AUTOMATIC if way.conv_max_mem is None else "off")
    if rolls == "off" or work.ranks > 1 or work.frames == 1:
        return False
    height, width = _picture(work, way.tile)
    return height * width / 4**level >= smallest_rolled(rolls, height * width)


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


def _outer(block: nn.Module) -> int:
    return block.resnets[-1].conv2.out_channels


def _halves_time(block: nn.Module, stage: str) -> bool:
    samplers = block.downsamplers if stage == "encode" else block.upsamplers
    if not len(samplers):
        return False
    return samplers[0].conv.stride[0] == 2 if stage == "encode" else samplers[0].time_factor == 2
