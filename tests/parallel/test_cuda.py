"""The CUDA path: ranks sharing one GPU through gloo, and NCCL where there is nobody to talk to or a GPU for each."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.parallel, pytest.mark.gpu]

JOB = Path(__file__).with_name("cuda_job.py")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_on_gpus_compute_the_same(ranks):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(JOB)]
    job = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert job.returncode == 0, job.stderr[-3000:]
    backend = "nccl" if ranks <= torch.cuda.device_count() else "gloo"
    assert f"equal on {ranks} with {backend}" in job.stdout
