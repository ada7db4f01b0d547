"""Predicts the device memory of a plan in GiB, by counting tensors from the networks' shapes and the plan's schedule.

The network follows the same schedule, so this module makes no decisions.
"""

from math import ceil

from common.kernels.frame_norm import query_rows, scores_bytes
from data.video.framing import latent_frames
from models.nadit.windows import cut_windows
from models.video_vae_v3.modules.encoder import DownEncoderBlock3D
from models.video_vae_v3.modules.winograd import BLOCK_BYTES, working_channels
from projects.video_diffusion_sr.communication import TEXT_TOKENS
from projects.video_diffusion_sr.memory.plan import MemoryPlan, tile_size
from projects.video_diffusion_sr.memory.workload import GIB, VaeBlock, Workload, blocks_of

FLOAT = 4  # bytes per number of pixels outside the networks, which are float32
PAST = 2  # number of frames that a convolution with three taps carries
FINISH_FRAMES = 5  # number of frames of a slice that are finished at a time

# Fitted to measurements (tests/projects/test_memory_predict.py).
LIBRARIES = 0.15  # GiB in addition to the networks' tensors, independent of the size
WORKSPACE = 0.2  # GiB more for clips, which 3-D convolutions and upsamplers need but a single frame does not
RESIZING, RESIZED = 3, 2  # float32 copies of an input frame and of its resized form while it is resized
TOGETHER = 5  # input frames that are converted at once: the larger of FINISH_FRAMES and to_latents.PREPARE_FRAMES
CURVE = 4  # copies of a frame in an HDR tone curve
FINISHING = 8  # float32 pictures that the colour fix and the rounding hold at once
REPLAYED = 1.72  # memory of the graphs of a picture's three stages, for each size, relative to its largest working set
EIGHT_BIT = 0.55  # size of the transformer's weights in 8 bits; norms, embeddings and the current layer have more bits


def predict(plan: MemoryPlan, work: Workload) -> dict[str, float]:
    """The memory peak of each stage on the busiest rank, in GiB."""
    vae_gib, dit_gib, gathered = _vae_gib(plan, work), _dit_gib(plan, work), _gathered_gib(work)
    transformer = transformer_gib(plan, work) + _latents_gib(work)
    work = work if plan.schedule.tile is None else work.alone  # ranks do not share tiles
    resident = plan.offload == "none"
    carried = {stage: carried_gib(plan, work, stage) for stage in ("encode", "decode")}
    # The carried frames of the half of the VAE that is idle. Those of tiles are on the host anyway.
    stays = work.long and not plan.offload_carried and plan.schedule.tile is None
    kept = carried if stays else dict.fromkeys(carried, 0.0)
    workspace = 0.0 if plan.schedule.single_frame else WORKSPACE
    beside = LIBRARIES + workspace + vae_gib + (dit_gib if resident else 0)
    early = dit_gib if plan.prefetch and not resident else 0  # weights that are copied while the VAE still encodes
    before, after, source = _pixels_gib(plan, work)
    encode, decode = (carried[stage] + working_gib(plan, work, stage) for stage in carried)
    if plan.replay:  # graphs keep the working sets of all stages, and finishing needs more memory
        kept_by_graphs = REPLAYED * work.repeated * max(encode, decode, transformer_gib(plan, work))
        finishing = _finishing_gib(plan, work)
        return {
            "encode": beside + kept_by_graphs + before + source,
            "transformer": beside + kept_by_graphs + _latents_gib(work),
            "decode": beside + kept_by_graphs + after + source + finishing,
        }
    # While frames are finished, the decoder's working set is free. A clip's next slice is decoded while resized frames
    # are still in memory.
    resized = 0.0 if plan.schedule.single_frame else source
    decode = max(decode + resized, carried["decode"] + _finishing_gib(plan, work) + source)
    return {
        "encode": beside + early + encode + before + source + kept["decode"],
        "transformer": LIBRARIES + dit_gib + gathered + (vae_gib if resident else 0) + transformer + sum(kept.values()),
        "decode": beside + decode + after + kept["encode"],
    }


def _vae_gib(plan: MemoryPlan, work: Workload) -> float:
    """The VAE's weights, with the weights that this plan and the run's other plans derive from them."""
    derived = plan.schedule.winograds | work.derived
    return (work.vae_bytes + sum(work.winograd_bytes[winograd] for winograd in derived)) / GIB


def _dit_gib(plan: MemoryPlan, work: Workload) -> float:
    """The transformer's weights on the device while it computes: three blocks with block offloading, else all."""
    gib, of_block = work.dit_bytes / GIB, work.dit_bytes / GIB / work.dit.num_layers
    if work.sharded:
        gib -= work.block_bytes[1] * (1 - 1 / work.sharing) / GIB
    if plan.storage_8_bit:
        gib *= EIGHT_BIT
    return 3 * of_block if plan.offload == "blocks" else gib


def _gathered_gib(work: Workload) -> float:
    """Gathered sharded weights while the transformer computes: the current and the next block."""
    return 2 * work.block_bytes[0] / GIB if work.sharded else 0.0


def _pixels_gib(plan: MemoryPlan, work: Workload) -> tuple[float, float, float]:
    """Pixels on the device, in addition to the networks' tensors: (in encoding, in decoding, in resizing)."""
    deep = (TOGETHER + CURVE) * (work.result_bytes > 1)  # frames of more than 8 bits are converted together in float32
    source = 3 * (work.source * (RESIZING + deep) + work.pixels * RESIZED) * FLOAT / GIB
    if plan.schedule.tile is not None:  # slices are on the host, and a tile of one is small
        return 0.0, 0.0, source
    frames = _slice_frames(plan, work) + (0 if work.frames == 1 else 1)
    plane = 3 * work.rows * work.width / GIB
    # Results of two slices, in 8 or 16 bits, wait on the leader to be copied to the host.
    results = 2 * frames * 3 * work.pixels * work.result_bytes / GIB
    # Waiting frames, their stack, and its cast to the networks' dtype before the VAE; two copies after it.
    return frames * plane * (2 * FLOAT + work.itemsize), frames * plane * 2 * work.itemsize + results, source


def _finishing_gib(plan: MemoryPlan, work: Workload) -> float:
    """The whole frames that one rank finishes at once, and the buffers with which ranks exchange rows for them."""
    frames = ceil(_slice_frames(plan, work) / work.ranks)
    at_once = min(frames, FINISH_FRAMES) * FINISHING * 3 * work.pixels * FLOAT
    exchanged = 0 if work.ranks == 1 else 3 * frames * 3 * work.pixels * work.itemsize
    return (at_once + exchanged) / GIB


def _slice_frames(plan: MemoryPlan, work: Workload) -> int:
    """The number of frames that pass through the VAE at once, without the clip's first; tiles use the YAML's slices."""
    frames = plan.schedule.slice_frames if plan.schedule.tile is None else work.slice_frames
    return min(frames or work.frames, work.frames)


def transformer_gib(plan: MemoryPlan, work: Workload) -> float:
    """The activations of one block on the busiest rank: the larger of those of attention and of the MLP."""
    pt, ph, pw = work.dit.patch_size
    latent = latent_frames(work.frames, work.vae.temporal_factor)
    height, width = (n // work.vae.spatial_factor for n in (work.height, work.width))
    grid = latent // pt, height // ph, width // pw
    tokens = ceil(grid[0] * grid[1] * grid[2] * work.token_share)
    of_stream, inner = work.dit.dim, work.dit.heads * work.dit.head_dim
    # In the tokens' order: the stream and its normalised copy, projections, and attention's result before and after the
    # last projection. In windows: queries, keys, values and attention's result.
    attention = tokens * (3 * of_stream + 4 * inner) + _window_rows(work, grid, tokens) * 4 * inner
    hidden = 2 * 256 * ceil(int(2 * of_stream * work.dit.expand_ratio / 3) / 256)
    hidden = hidden if work.dit.mlp == "swiglu" else 2 * of_stream * work.dit.expand_ratio
    chunk = tokens if plan.token_chunk is None else min(tokens, plan.token_chunk)
    feed_forward = tokens * 3 * of_stream + chunk * (hidden + of_stream)
    tables = tokens * (2 * 2 * 64 * 4 + 2 * 16)  # cosines, sines and indices, for regular and shifted windows
    return (max(attention, feed_forward) * work.itemsize + work.texts * tables) / GIB


def _latents_gib(work: Workload) -> float:
    """The latents of the whole clip, which every rank holds.

    Slices of latents, their window, two noises and the condition are float32. The network's input exists in float32 and
    in the network's dtype.
    """
    positions = latent_frames(work.frames, work.vae.temporal_factor) * work.pixels // work.vae.spatial_factor**2
    channels = work.vae.latent_channels
    return positions * (5 * channels * FLOAT + (2 * channels + 1) * (FLOAT + work.itemsize)) / GIB


def _window_rows(work: Workload, grid: tuple[int, int, int], tokens: int) -> int:
    """The number of rows of a rank's attention sequences: its tokens, and the text once per window."""
    kinds = set(zip(work.dit.windows, work.dit.shifted, strict=True))
    windows = max(len(cut_windows(grid, counts, shifted)) for counts, shifted in kinds)
    return tokens + ceil(windows * work.token_share) * TEXT_TOKENS


def carried_gib(plan: MemoryPlan, work: Workload, stage: str) -> float:
    """The frames that the convolutions of the encoder or the decoder keep for the next slice."""
    if plan.schedule.single_frame:
        return 0.0
    carried = sum(
        PAST * _pixels(plan, work, level) * channels for level, channels in enumerate(work.carried_channels[stage])
    )
    return carried * work.itemsize / GIB


def working_gib(plan: MemoryPlan, work: Workload, stage: str) -> float:
    """The largest working set of a level of the encoder or the decoder."""
    blocks, chosen = blocks_of(work.vae, stage), plan.schedule.levels
    working = waiting = 0.0
    for level in reversed(range(len(blocks))):
        block, frames = blocks[level], _level_frames(plan, work, level)
        if 0 < chosen[level].winograd <= frames:
            of_level = _filtered_level(plan, work, level, block, waiting)
        else:
            of_level = _direct_level(plan, work, level, block, waiting)
        working = max(working, of_level)
        if stage == "decode" and level and not plan.schedule.single_frame:  # the first frame is not doubled in time
            made = frames * work.vae.levels[level].time // work.vae.levels[level - 1].time
            if made > _level_frames(plan, work, level - 1):  # the upsampler's input is kept while later levels compute
                waiting += _pixels(plan, work, level) * (frames + PAST) * block.resnets[-1].conv2.out_channels
    return max(working * work.itemsize / GIB, _attention_gib(plan, work))


def _direct_level(plan: MemoryPlan, work: Workload, level: int, block: VaeBlock, beside: float) -> float:
    """The number of elements: those of the larger half of the largest resnet block, and `beside`."""
    pixels, frames = _pixels(plan, work, level), _level_frames(plan, work, level)
    past = 0 if plan.schedule.single_frame else PAST
    largest = 0.0
    for resnet in block.resnets:
        inner, outer = resnet.conv1.in_channels, resnet.conv1.out_channels
        first = (2 * frames + past) * inner + frames * outer  # the input, its norm, the first convolution's result
        second = frames * inner + (3 * frames + past) * outer
        largest = max(largest, first, second)
    return pixels * largest + beside


def _filtered_level(plan: MemoryPlan, work: Workload, level: int, block: VaeBlock, beside: float) -> float:
    """The number of elements: the input (which the result overwrites if it fits), the first result, one row block."""
    pixels, frames = _pixels(plan, work, level), plan.schedule.levels[level].group
    assert frames is not None, "a level with a Winograd transform takes groups of frames"
    # The last resnet block writes into the input of the strided convolution.
    if isinstance(block, DownEncoderBlock3D) and len(block.downsamplers):
        down = block.downsamplers[0].conv
        beside += pixels * (frames + down.kernel_size[0] - down.stride[0]) * down.in_channels
    largest = 0.0
    for resnet in block.resnets:
        inner, outer = resnet.conv1.in_channels, resnet.conv1.out_channels
        held = pixels * frames * (inner + outer + (outer if outer > inner else 0))
        # Transformed frames and their products; for a small picture, one block has all rows.
        row_block = min(BLOCK_BYTES / work.itemsize, pixels * working_channels(frames, inner, outer))
        largest = max(largest, held + row_block)
    return largest + beside


def _level_frames(plan: MemoryPlan, work: Workload, level: int) -> int:
    """The number of frames that pass through a level at once."""
    of_slice = max(_slice_frames(plan, work) // work.vae.levels[level].time, 1)
    return min(plan.schedule.levels[level].group or of_slice, of_slice)


def _attention_gib(plan: MemoryPlan, work: Workload) -> float:
    """The working set of the VAE's mid-block attention: the scores of a chunk of queries, and the other tensors.

    A rank has the queries of its own rows, and the keys and values of all rows.
    """
    height, width = (n // work.vae.spatial_factor for n in _picture(plan, work))
    pixels = ceil(height / work.ranks) * width
    frames = max(1, _slice_frames(plan, work) // work.vae.temporal_factor)
    channels = work.vae.encoder.mid_block.attentions[0].to_q.in_features
    rows = min(pixels, query_rows(height * width, work.itemsize, scores_bytes(plan.schedule.scores_bytes)))
    of_scores = rows * height * width * (FLOAT + work.itemsize)
    gathered = 0 if work.ranks == 1 else 2 * frames * height * width * channels
    return (of_scores + (6 * frames * pixels * channels + gathered) * work.itemsize) / GIB


def _pixels(plan: MemoryPlan, work: Workload, level: int) -> int:
    """The pixels of a level's picture on the busiest rank, with the two halo rows that neighbours send."""
    height, width = _picture(plan, work)
    if work.ranks > 1:
        return ((work.rows >> level) + 2) * (width >> level)
    return (height >> level) * (width >> level)


def _picture(plan: MemoryPlan, work: Workload) -> tuple[int, int]:
    """The height and width in pixels of the picture, or of the tile, that passes through the VAE at once."""
    return (work.height, work.width) if plan.schedule.tile is None else tile_size(work, plan.schedule.tile)
