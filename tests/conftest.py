"""What several tests share: recorded numbers, the rule for seeded weights, optional material beside the checkout."""

import json
import os
import random
import signal
import threading
import zlib
from pathlib import Path

# Before torch is loaded. MKL rounds exp differently on every kind of CPU, and the last bit of a frequency in the time
# embedding is worth 1e-5 of the transformer's output at t = 1000. The recorded numbers are of this code path, which
# MKL takes by itself on CPUs that are not Intel's.
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")
if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: more threads than that would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Under `nohup` or a shell's `&` these signals are ignored. Programs that tests start would inherit that and wait for
# ever; they do not inherit a handler.
for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # float32 is compared as such

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="other random numbers for every test (default: 0)")


def draw_by(name: str, config: pytest.Config) -> None:
    """Random numbers from here on depend on the name and on --seed, not on what ran before in this process."""
    seed = zlib.crc32(f"{config.getoption('--seed')} {name}".encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    draw_by(f"{request.node.nodeid} {fixturedef.argname}", request.config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    draw_by(item.nodeid, item.config)


def seeded(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The rule of the recorded numbers: standard normal float32 drawn from a generator seeded by the name's CRC."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return torch.from_numpy(rng.standard_normal(tuple(shape)).astype(np.float32))


@torch.no_grad()
def seed_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Fill every parameter by the rule in tests/golden/README.md; buffers keep their computed values."""
    for name, parameter in model.named_parameters():
        z = seeded(name, tuple(parameter.shape))
        if parameter.ndim >= 2:
            z = z / parameter[0].numel() ** 0.5
        elif name.endswith("weight") or name.endswith("_scale"):
            z = 1 + 0.1 * z
        else:
            z = 0.1 * z
        parameter.copy_(z)
    return model


def load_golden(name: str) -> dict:
    """Recorded tensors (`*.safetensors`) or values (`*.json`) by file name."""
    path = GOLDEN / name
    return load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and clips that lie beside the checkout on some machines; tests that use them skip elsewhere."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the evaluation material (../shared/data) is not on this machine")
    return path
