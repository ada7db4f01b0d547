"""What is predicted for the VAE is what its inference holds, counted tensor by tensor at the sizes of real clips."""

from copy import deepcopy
from math import ceil

import pytest
import torch

from common.kernels.frame_norm import wide_attention
from common.kernels.triton_support import Kernels, kernels
from models.video_vae_v3.modules import inference_layers, upsampling, winograd
from models.video_vae_v3.modules.fold import prepare_inference
from models.video_vae_v3.modules.row_blocks import in_row_blocks
from models.video_vae_v3.modules.schedule import DIRECT, F23, F43, default_schedule
from projects.video_diffusion_sr.dry_run import DryRows
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.memory.predict import WORKSPACE, carried_gib, working_gib
from projects.video_diffusion_sr.memory.workload import GIB
from tests.projects.counted_memory import Held, most_held, without_kernels
from tests.projects.released import released, settings_of

CLIPS = [  # frames, height, width; ranks, m of F(m, 3), frames of a slice
    ((97, 720, 1280), 1, F43, 8), ((97, 720, 1280), 2, F43, 8), ((97, 720, 1280), 1, DIRECT, 4),
    ((97, 720, 1280), 1, F23, 4), ((97, 1088, 1920), 4, F43, 8), ((21, 2160, 3840), 1, F23, 4),
    ((21, 2160, 3840), 2, F43, 8), ((17, 320, 512), 1, F43, 4), ((1, 720, 1280), 1, DIRECT, 4),
]  # fmt: skip


@pytest.fixture
def packed_convolutions(monkeypatch):
    """On CUDA a convolution's result is channels-last and is not copied; on the meta device it is not."""

    def packed(y):
        return y.view(*(y.shape[n] for n in (0, 2, 3, 4, 1)))

    def product(x, weight, up):
        rows, columns = (up * n for n in x.shape[1:3])
        return x.new_empty(len(x), rows, columns, len(weight) if up == 1 else weight.shape[1])

    monkeypatch.setattr(winograd, "_product", product)
    for module in (inference_layers, upsampling):
        monkeypatch.setattr(module, "channels_last", packed)


@pytest.mark.parametrize(("clip", "ranks", "m", "slice_frames"), CLIPS)
def test_no_stage_holds_more_than_predicted(monkeypatch, packed_convolutions, clip, ranks, m, slice_frames):
    """A tensor that is held while the next one is made, for one line too long, is 0.7 GiB here."""
    without_kernels(monkeypatch)
    frames, height, width = clip
    work = released()(*clip, ranks, source=height * width)
    vae = deepcopy(settings_of("seedvr2_3b").vae)
    latent_rows, own = height // 8, -(-height // 8 // ranks)
    rows = DryRows(ranks, latent_rows, own, first=True, last=False) if ranks > 1 else None
    with kernels(Kernels.AHEAD), torch.no_grad():
        prepare_inference(vae, winograd=[m] if m else [])
        vae.to(torch.bfloat16)
        schedule = default_schedule(vae.levels, height, width, slice_frames, m, single_frame=frames == 1)
        runs = {
            "encode": (vae.encode_slice, (3, 1 + slice_frames, 8 * own, width), slice_frames),
            "decode": (vae.decode_slice, (16, 1 + slice_frames // 4, own, width // 8), slice_frames // 4),
        }
        for stage, (run, (channels, first, *size), step) in runs.items():
            memory = vae.new_memory(schedule, rows)
            lengths = (1,) if frames == 1 else (first, step, step)
            inputs = (torch.empty(1, channels, n, *size, dtype=torch.bfloat16, device="meta") for n in lengths)
            held = most_held(lambda x, run=run, memory=memory: run(x, memory), inputs) / GIB
            plan = MemoryPlan(schedule)
            predicted = carried_gib(plan, work, stage) + working_gib(plan, work, stage)
            assert held <= 1.01 * (predicted + WORKSPACE), (stage, held, predicted)
            assert predicted <= (1.2 if m == DIRECT else 1.06) * held, (stage, held, predicted)


def test_one_block_of_rows_exists_at_a_time():
    """Of a convolution that is too large for one call; beside its input and its result."""
    x, out_shape = torch.empty(1, 2, 64, 16, 8, device="meta"), (1, 2, 64, 16, 8)
    with Held() as held:
        out = in_row_blocks(torch.clone, x, out_shape, most=x.numel() // 4)
    rows = max(1, 64 // ceil(4 * 1.25) - 2) + 2
    assert held.most == x.nbytes + out.nbytes + x.nbytes * rows // 64


def test_one_chunk_of_scores_exists_at_a_time(monkeypatch):
    """Scores in float32, and their softmax in 16 bits."""
    without_kernels(monkeypatch)
    q = torch.empty(2, 1024, 64, dtype=torch.bfloat16, device="meta")
    with kernels(Kernels.AHEAD), torch.no_grad(), Held() as held:
        wide_attention(q, q, q, most_bytes=256 * 1024 * 6)
    assert held.most == 2 * q.nbytes + 256 * 1024 * 6  # beside the queries and the result
