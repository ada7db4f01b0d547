"""The bytes that are promised are the bytes that are sent."""

import pytest
import torch

from common.distributed.collectives import make_group
from common.distributed.process import Process
from common.distributed.sequence_parallel import SequenceParallel
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKLWrapper
from projects.video_diffusion_sr import communication
from projects.video_diffusion_sr.communication import communication_volume
from tests.parallel.ranks import run_ranks
from tests.parallel.test_equality import META, build_dits

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
            layout = dit.layout([SHAPE], [6], team=SequenceParallel(group))
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


def test_one_rank_sends_nothing_and_more_ranks_send_less_each():
    with torch.device("meta"):
        vae = VideoAutoencoderKLWrapper(**META["vae"]["config"])
    config = build_dits()["v2_small"].config
    volumes = [communication_volume(config, vae, 97, PIXELS, size) for size in (1, 2, 4, 8)]
    assert volumes[0].total == 0
    decodes = [volume.decode for volume in volumes[1:]]
    assert decodes == sorted(decodes, reverse=True) and decodes[-1] > 0
    assert communication_volume(config, vae, 1, PIXELS, 2).decode == 0, "an image has no frames before it"
