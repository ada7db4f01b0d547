"""The library on the second GPU, from threads of a host: the numbers of the first one."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import seedvr
from common.kernels.repeatable import repeatable
from tests.seeded_weights import SMALL, seeded_weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


def test_a_worker_thread_on_the_second_gpu_gets_what_the_first_one_computes(tmp_path):
    weights = seeded_weights(tmp_path)
    clip = np.random.default_rng(0).integers(0, 256, (13, 32, 48, 3), dtype=np.uint8)
    made = []
    with repeatable():
        for device in ("cuda:0", "cuda:1"):
            restorer = seedvr.load("seedvr2_tiny", device=device, window=9, ckpt_dir=weights, overrides=SMALL)
            with ThreadPoolExecutor(1) as pool:  # begins with the first GPU
                made.append(pool.submit(restorer, clip, size=(96, 64)).result())
            with restorer.live(size=(96, 64)) as live:
                pushed = [frame for picture in clip for frame in live.push(picture)] + live.flush()
            assert np.array_equal(np.stack(pushed), made[-1])
            assert torch.cuda.current_device() == 0, "the host's own device is left alone"
    assert np.abs(made[0].astype(int) - made[1]).max() <= 1
