"""The same numbers on any number of ranks: transformer and VAE, both generations, clips, images and packed batches."""

import json

import pytest
import torch
import torch.distributed as dist

from common.distributed.collectives import Group
from common.distributed.process import Process
from common.distributed.sequence_parallel import SequenceParallel
from common.distributed.temporal_halo import RingMemory
from common.distributed.turns import in_turns
from models.dit.nadit import NaDiT as NaDiT7B
from models.dit_v2.nadit import NaDiT as NaDiT3B
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKLWrapper
from models.video_vae_v3.modules.fold import prepare_inference
from tests.conftest import GOLDEN, seed_weights, seeded
from tests.parallel.ranks import run_ranks

pytestmark = pytest.mark.parallel

META = json.loads((GOLDEN / "meta.json").read_text())
DOORS = {"v1_small": NaDiT7B, "v2_small": NaDiT3B}
SIZES = (2, 3, 4, 8)
TOLERANCE = 1e-5

CUT_BYTES = 65536  # cuts slices inside the VAE into parts of several frames
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


def build_vae(fast: bool) -> VideoAutoencoderKLWrapper:
    vae = seed_weights(VideoAutoencoderKLWrapper(**META["vae"]["config"])).eval()
    if fast:
        prepare_inference(vae)
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
                layout = model.layout(*CLIPS[case], team=SequenceParallel(group))
                got = model(**given, taps=(0, 1), layout=layout)
                pairs = [(got.vid_sample, expected.vid_sample), *zip(got.features, expected.features, strict=True)]
                worst = max(float((a - b).abs().max()) for a, b in pairs)
                assert worst <= TOLERANCE, f"{name}, {case}, {size} ranks: {worst}"
            if group:
                assert group.traffic.sent["tokens"] > 0 or size == 1 or group.own >= 1

    run_ranks(max(SIZES), work)


def pieces_of(x: torch.Tensor, first: int, size: int) -> list[torch.Tensor]:
    return [x[:, :, :first], *x[:, :, first:].split(size, dim=2)] if x.shape[2] > first else [x]


@pytest.mark.parametrize("fast", [False, True])
@torch.no_grad()
def test_vae(fast):
    vae = build_vae(fast)
    factor = vae.temporal_factor
    clips = {frames: seeded(f"parallel/{frames}", (1, 3, frames, 8, 16)).clamp(-1, 1) for frames in (1, 9, 33)}
    whole = {}
    for frames, x in clips.items():
        moments = vae.encode_slice(x, vae.new_memory())
        whole[frames] = moments, vae.decode_slice(moments.chunk(2, 1)[0], vae.new_memory())

    def work(process: Process) -> None:
        for size in SIZES:
            group = group_of(process, size)
            for frames, x in clips.items() if group else ():
                for first, step, conv_bytes in ((1 + factor, factor, None), (1, 2 * factor, 1), (9, 16, CUT_BYTES)):
                    vae.conv_bytes = conv_bytes  # the fast path's cut inside a slice
                    compare(group, x, *whole[frames], first, step)

    def compare(group: Group, x, moments, decoded, first: int, step: int) -> None:
        length = lambda piece: piece.shape[2]  # noqa: E731
        memory = RingMemory(group)
        encoded = in_turns(
            group, pieces_of(x, first, step), lambda p: vae.encode_slice(p, memory), memory=memory, length=length
        )
        got = torch.cat(list(encoded), 2)
        assert (got - moments).abs().max() <= TOLERANCE, f"encode on {group.size}"
        z, memory = moments.chunk(2, 1)[0], RingMemory(group)
        parts = pieces_of(z, 1 + (first - 1) // factor, step // factor)
        outputs = list(
            in_turns(
                group, parts, lambda p: (vae.decode_slice(p, memory), torch.tensor(p.shape)), memory=memory,
                length=length, everyone=False,
            )
        )  # fmt: skip
        assert group.leads or not outputs
        if group.leads:
            assert [shape.tolist() for _, shape in outputs] == [list(part.shape) for part in parts]
            worst = (torch.cat([frames for frames, _ in outputs], 2) - decoded).abs().max()
            assert worst <= TOLERANCE, f"decode of {x.shape[2]} frames on {group.size} ranks: {worst}"

    run_ranks(max(SIZES), work)


def test_tokens_find_their_way():
    """Any owners, also scattered ones and ranks with nothing: entering, moving and leaving changes no token."""
    tokens, cuts = 23, 3
    generator = torch.Generator().manual_seed(0)
    packed = torch.arange(2.0 * tokens).view(tokens, 2)
    owners = {
        size: [torch.randint(0, max(size - 1, 1), (tokens,), generator=generator) for _ in range(cuts)]
        for size in (2, 3, 4)
    }

    def work(process: Process) -> None:
        for size, of_cuts in owners.items():
            if group := group_of(process, size):
                exchange = SequenceParallel(group).exchange(of_cuts, "cpu")
                for a in range(cuts):
                    own = exchange.enter(packed, a)
                    assert torch.equal(own, packed[of_cuts[a] == group.own])
                    assert torch.equal(exchange.leave(own, a), packed)
                    with pytest.raises(RuntimeError, match="in inference only"), torch.enable_grad():
                        exchange.sum_text(torch.ones(2, requires_grad=True))
                    for b in range(cuts):
                        assert torch.equal(exchange.move(own, a, b), packed[of_cuts[b] == group.own])

    run_ranks(4, work)
