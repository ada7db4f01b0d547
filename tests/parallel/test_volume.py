"""The bytes that are promised are the bytes that are sent."""

import pytest
import torch

from common.distributed.collectives import make_group
from common.distributed.process import Process
from common.distributed.row_parallel import ATTENTION, HALO, ClipRows
from common.distributed.sequence_parallel import SequenceParallel
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKLWrapper
from models.video_vae_v3.modules.schedule import direct_schedule
from projects.video_diffusion_sr import communication
from projects.video_diffusion_sr.communication import communication_volume, vae_bytes
from tests.parallel.ranks import run_ranks
from tests.parallel.test_equality import META, build_dits, build_vae, through

pytestmark = pytest.mark.parallel

SHAPE = (5, 8, 12)
FRAMES, PIXELS = 17, (64, 96)


def test_what_is_promised_is_sent(monkeypatch, tmp_path):
    monkeypatch.setattr(communication, "NUMBER_BYTES", 4)  # the test computes in float32
    monkeypatch.setattr(communication, "TEXT_TOKENS", 6)
    dits = build_dits()
    promised = {name: communication_volume(dit.config, None, FRAMES, PIXELS, 3) for name, dit in dits.items()}

    def work(process: Process) -> None:
        for name, dit in dits.items():
            group = make_group(process, process.world)
            layout = dit.layout([SHAPE], [6], sequence_group=SequenceParallel(group))
            dit(
                torch.zeros(5 * 8 * 12, 33),
                torch.zeros(6, dit.txt_in.in_features),
                [SHAPE],
                [[6]],
                500.0,
                layout=layout,
            )
            torch.save(group.traffic.sent, tmp_path / f"{name}{process.rank}")

    run_ranks(3, work)
    for name, volume in promised.items():
        sent = [torch.load(tmp_path / f"{name}{rank}") for rank in range(3)]
        assert max(bytes_["tokens"] for bytes_ in sent) == volume.tokens > 0
        assert max(bytes_["result of the transformer"] for bytes_ in sent) == volume.result
        assert sent[0]["text"] == pytest.approx(volume.text, rel=0.01)


@pytest.mark.slow  # the whole VAE in several processes
@pytest.mark.parametrize("ranks", [2, 3])
@torch.no_grad()
def test_rows_that_are_promised_are_sent(ranks, monkeypatch, tmp_path):
    """In float32, slice by slice: rows of every convolution, and keys and values."""
    monkeypatch.setattr(communication, "NUMBER_BYTES", 4)
    vae, schedule = build_vae(), direct_schedule(8, 4)
    latents = 1 + (FRAMES - 1) // vae.temporal_factor, *(n // vae.spatial_factor for n in PIXELS)
    promised = vae_bytes(vae, latents, ranks)
    clips = torch.zeros(1, 3, FRAMES, *PIXELS), torch.zeros(1, vae.latent_channels, *latents)

    def work(process: Process) -> None:
        group = make_group(process, process.world)
        rows = ClipRows(group, latents[1])
        for run, clip, scale in zip(("encode_slice", "decode_slice"), clips, (vae.spatial_factor, 1), strict=True):
            before = dict(group.traffic.sent)
            through(vae, rows.shard(clip, 3, scale), schedule, run, rows.exchange)
            sent = sum(group.traffic.sent[name] - before.get(name, 0) for name in (HALO, ATTENTION))
            torch.save(sent, tmp_path / f"{run}{process.rank}")

    run_ranks(ranks, work)
    for run, volume in zip(("encode_slice", "decode_slice"), promised, strict=True):
        busiest = max(torch.load(tmp_path / f"{run}{rank}") for rank in range(ranks))
        assert busiest == pytest.approx(volume, rel=0.02)


def test_one_rank_sends_nothing():
    with torch.device("meta"):
        vae = VideoAutoencoderKLWrapper(**META["vae"]["config"])
    config = build_dits()["v2_small"].config
    volumes = [communication_volume(config, vae, 97, PIXELS, size) for size in (1, 2, 4, 8)]
    assert volumes[0].total == 0 and all(volume.encode > 0 and volume.decode > 0 for volume in volumes[1:])
    image, clip = (communication_volume(config, vae, frames, PIXELS, 4).decode for frames in (1, 97))
    assert 0 < image < clip / 20
