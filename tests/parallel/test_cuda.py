"""The CUDA path: ranks sharing one GPU through gloo, and NCCL where there is nobody to talk to or a GPU for each."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.parallel, pytest.mark.gpu]

JOB, TRAINING_JOB = (Path(__file__).with_name(name) for name in ("cuda_job.py", "cuda_training_job.py"))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_on_gpus_compute_the_same(ranks):
    assert f"equal on {ranks} with {backend(ranks)}" in run(ranks, JOB)


def test_two_gpus_train_as_one(tmp_path):
    """Sharded in every way, with and without shared clips, saved and resumed: through NCCL where there are two GPUs."""
    assert f"equal on 2 with {backend(2)}" in run(2, TRAINING_JOB, "cuda", str(tmp_path))


def backend(ranks: int) -> str:
    return "nccl" if ranks <= torch.cuda.device_count() else "gloo"


def run(ranks: int, *command: object) -> str:
    """What torchrun's ranks print."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    job = subprocess.run([*launcher, *map(str, command)], capture_output=True, text=True, timeout=280, check=False)
    assert job.returncode == 0, job.stderr[-3000:]
    return job.stdout
