"""The same numbers on any number of ranks: transformer and VAE, both generations, clips, images and packed batches."""

import json

import pytest
import torch
import torch.distributed as dist

from common.distributed.collectives import Group
from common.distributed.process import Process
from common.distributed.row_parallel import ClipRows, UnshardedClip
from common.distributed.sequence_parallel import SequenceParallel
from models.dit.nadit import NaDiT as NaDiT7B
from models.dit_v2.nadit import NaDiT as NaDiT3B
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKLWrapper, split_after_first
from models.video_vae_v3.modules.fold import prepare_inference
from models.video_vae_v3.modules.schedule import F23, F43, LevelSchedule, Schedule
from tests.conftest import GOLDEN, seed_weights, seeded
from tests.parallel.ranks import run_ranks

pytestmark = pytest.mark.parallel

META = json.loads((GOLDEN / "meta.json").read_text())
DOORS = {"v1_small": NaDiT7B, "v2_small": NaDiT3B}
SIZES = (2, 3, 4, 8)
TOLERANCE = 1e-5

CLIPS = {  # latent shapes of packed samples, text lengths; windows from one (fewer than ranks) to some dozens
    "clip": ([(7, 12, 20)], [5]),
    "image": ([(1, 8, 6)], [3]),
    "one token": ([(1, 2, 2)], [1]),
    "batch": ([(3, 6, 8), (1, 4, 10), (5, 2, 2)], [4, 4, 7]),
}


def group_of(process: Process, size: int) -> Group | None:
    """The first `size` ranks; None on the others. Every rank must ask."""
    handle = dist.new_group(list(range(size)))
    return Group(process, range(size), handle) if process.rank < size else None


def dit_inputs(model, case: str) -> dict:
    shapes, lengths = CLIPS[case]
    tokens = sum(t * h * w for t, h, w in shapes)
    return {
        "vid": seeded(f"parallel/{case}/vid", (tokens, 33)),
        "txt": seeded(f"parallel/{case}/txt", (sum(lengths), model.txt_in.in_features)),
        "vid_shape": shapes,
        "txt_shape": [[n] for n in lengths],
        "timestep": torch.tensor([900.0, 500.0, 10.0][: len(shapes)]),
    }


def build_dits() -> dict:
    return {name: seed_weights(door(**META[f"dit/{name}"]["config"])).eval() for name, door in DOORS.items()}


def build_vae() -> VideoAutoencoderKLWrapper:
    vae = seed_weights(VideoAutoencoderKLWrapper(**META["vae"]["config"])).eval()
    prepare_inference(vae, (F23, F43))
    return vae


@torch.no_grad()
def test_transformer():
    dits = build_dits()
    inputs = {(name, case): dit_inputs(model, case) for name, model in dits.items() for case in CLIPS}
    alone = {key: dits[key[0]](**given, taps=(0, 1)) for key, given in inputs.items()}

    def work(process: Process) -> None:
        for size in SIZES:
            group = group_of(process, size)
            for (name, case), given in inputs.items() if group else ():
                model, expected = dits[name], alone[name, case]
                layout = model.layout(*CLIPS[case], sequence_group=SequenceParallel(group))
                got = model(**given, taps=(0, 1), layout=layout)
                features = [layout.exchange.leave(x, layout.blocks[n].partition) for n, x in enumerate(got.features)]
                pairs = [(got.vid_sample, expected.vid_sample), *zip(features, expected.features, strict=True)]
                worst = max(float((a - b).abs().max()) for a, b in pairs)
                assert worst <= TOLERANCE, f"{name}, {case}, {size} ranks: {worst}"
            if group:
                assert group.traffic.sent["tokens"] > 0 or size == 1 or group.rank >= 1

    run_ranks(max(SIZES), work)


WHOLE = LevelSchedule()
LEVELS = {
    "direct": (WHOLE,) * 4,
    "winograd": (LevelSchedule(4, F43), LevelSchedule(4, F43), WHOLE, WHOLE),
    "short": (LevelSchedule(2, F23), LevelSchedule(2, F23), LevelSchedule(2), LevelSchedule(1)),
}


def through(vae, x: torch.Tensor, schedule: Schedule, run: str, rows=None) -> torch.Tensor:
    """A clip slice by slice through `encode_slice` or `decode_slice`, of which this rank has the rows x."""
    size = schedule.slice_frames // (vae.temporal_factor if run == "decode_slice" else 1)
    memory = vae.new_memory(schedule, rows)
    return torch.cat([getattr(vae, run)(part, memory) for part in split_after_first(x, size)], 2)


def restored(vae, clip: torch.Tensor, schedule: Schedule, rows: ClipRows) -> torch.Tensor:
    """[1, 3, T, H, W] of the whole clip, by way of rows, latents everywhere, rows and frames."""
    scale, frames = vae.spatial_factor, 1 + (clip.shape[2] - 1) // vae.temporal_factor
    latent = clip.new_empty(1, 2 * vae.latent_channels, frames, 0, clip.shape[4] // scale)
    if rows.holds_rows:
        latent = through(vae, rows.shard(clip, 3, scale), schedule, "encode_slice", rows.exchange)
    whole = rows.unshard(latent[0].permute(1, 2, 3, 0)).permute(3, 0, 1, 2)[None]  # t h w c and back
    pixels = clip.new_empty(3, clip.shape[2], 0, clip.shape[4])
    if rows.holds_rows:
        z = rows.shard(whole[:, : vae.latent_channels], 3)
        pixels = through(vae, z, schedule, "decode_slice", rows.exchange)[0]
    own = rows.to_frames(pixels, scale).transpose(0, 1)  # t 3 H W
    span = rows.frame_span(clip.shape[2])
    assert len(own) == span.stop - span.start
    return rows.to_leader(own, clip.shape[2])


MANY = pytest.mark.slow  # eight processes on two cores


@pytest.mark.parametrize(
    ("levels", "ranks"),
    [
        ("winograd", (2, 3)), pytest.param("direct", (3,), marks=MANY),
        *(pytest.param(levels, SIZES, marks=MANY) for levels in ("winograd", "direct", "short")),
    ],
)  # fmt: skip
@torch.no_grad()
def test_vae(levels, ranks):
    """Clips and images, more ranks than rows, rows and frames that ranks cannot share evenly, 2 to 8 ranks."""
    vae = build_vae()
    sizes = [(13, 40, 8), (1, 64, 8), (9, 16, 8), (5, 24, 8)]  # frames, height, width
    clips = [seeded(f"parallel/{size}", (1, 3, *size)).clamp(-1, 1) for size in sizes]
    schedules = [Schedule(8, LEVELS[levels], single_frame=clip.shape[2] == 1) for clip in clips]
    alone = [restored(vae, clip, schedule, UnshardedClip()) for clip, schedule in zip(clips, schedules, strict=True)]

    def work(process: Process) -> None:
        for size in ranks:
            group = group_of(process, size)
            if group is None:
                continue
            for clip, schedule, expected in zip(clips, schedules, alone, strict=True):
                latent_rows = clip.shape[3] // vae.spatial_factor
                got = restored(vae, clip, schedule, ClipRows(group, latent_rows))
                assert (got is not None) == group.is_leader
                if group.is_leader:
                    worst = float((got - expected).abs().max())
                    assert worst <= TOLERANCE, f"{tuple(clip.shape)} on {size} ranks: {worst}"

    run_ranks(max(ranks), work)


def test_tokens_find_their_way():
    """Any owners, also scattered ones and ranks with nothing: entering, moving and leaving changes no token."""
    tokens, partitions = 23, 3
    generator = torch.Generator().manual_seed(0)
    packed = torch.arange(2.0 * tokens).view(tokens, 2)
    owners = {
        size: [torch.randint(0, max(size - 1, 1), (tokens,), generator=generator) for _ in range(partitions)]
        for size in (2, 3, 4)
    }

    def work(process: Process) -> None:
        for size, of_cuts in owners.items():
            if group := group_of(process, size):
                exchange = SequenceParallel(group).exchange(of_cuts, "cpu")
                for a in range(partitions):
                    own = exchange.enter(packed, a)
                    assert torch.equal(own, packed[of_cuts[a] == group.rank])
                    assert torch.equal(exchange.leave(own, a), packed)
                    with pytest.raises(RuntimeError, match="has no gradient"), torch.enable_grad():
                        group.total(torch.ones(2, requires_grad=True), "test")
                    for b in range(partitions):
                        assert torch.equal(exchange.move(own, a, b), packed[of_cuts[b] == group.rank])

    run_ranks(4, work)


@pytest.mark.parametrize("sizes", [(2,), (3, 4)])
def test_rows_and_statistics_in_one_message_are_those_of_two(sizes):
    """Pictures with a block for every rank and with fewer; numbers and lengths that do not fit each other."""

    def work(process: Process) -> None:
        for size in sizes:
            if not (group := group_of(process, size)):
                continue
            generator = torch.Generator().manual_seed(size)
            for latent_rows, dtype in ((2 * size + 1, torch.bfloat16), (size - 1, torch.float64)):
                picture = torch.randn(1, 3, latent_rows, 5, 7, generator=generator, dtype=torch.float64).to(dtype)
                parts = torch.randn(size, 3, 11, generator=generator)
                clip = ClipRows(group, latent_rows)
                if (rows := clip.exchange) is None:
                    continue
                before = dict(group.traffic.sent)
                above, below, found = rows.surroundings(clip.shard(picture, 2), parts[group.rank])
                assert torch.equal(found, parts[: rows.ranks])
                span = clip.blocks.span(group.rank)
                for row, place in ((above, span.start - 1), (below, span.stop)):
                    assert (row is None) == (not 0 <= place < latent_rows)
                    assert row is None or torch.equal(row, picture[:, :, place : place + 1])
                    assert row is None or row.data_ptr() % 16 == 0, "for kernels that load 16 bytes at once"
                sent = {name: count - before.get(name, 0) for name, count in group.traffic.sent.items()}
                neighbours = 2 - rows.first - rows.last
                assert sent == {
                    "rows of neighbours": neighbours * picture[:, :, :1].nbytes,
                    "statistics of norms": (rows.ranks - 1) * parts[0].nbytes,
                }

    run_ranks(max(sizes), work)
