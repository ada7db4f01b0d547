"""Measures time and memory, and known operations that show how fast the machine is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch
from torch import Tensor

from common.kernels.conv3d import conv3d


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, with the device's work."""
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - started


def median_seconds(run: Callable[[], object], device: torch.device, runs: int, warm_up: int = 2) -> float:
    """The median of the seconds of `runs` calls, after `warm_up` calls."""
    for _ in range(warm_up):
        run()
    return median(timed(run, device) for _ in range(runs))


@contextmanager
def peak_gib(device: torch.device) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the peak of allocated device memory since the block began, in GiB; NaN on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) / 2**30
    else:
        yield lambda: float("nan")


def known_operations(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Speed of known operations, to compare machines, since those of one kind differ by 10-15%.

    "conv3d_tflops": a 3x3x3 convolution with 256 channels. "gemm_tflops": a matrix product. "copy_tb_s": a copy.
    """
    if device.type == "cuda":
        height, width, rows, side, runs = 360, 640, 90_000, 2560, 9
    else:
        height, width, rows, side, runs = 16, 16, 512, 256, 3
    x = torch.randn(1, 256, 6, height, width, device=device, dtype=dtype).to(memory_format=torch.channels_last_3d)
    weight = torch.randn(256, 256, 3, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last_3d) / 83
    a, b = torch.randn(rows, side, device=device, dtype=dtype), torch.randn(side, 3 * side, device=device, dtype=dtype)
    conv = median_seconds(lambda: conv3d(x, weight, None, (1, 1, 1), (0, 1, 1)), device, runs)
    gemm = median_seconds(lambda: a @ b, device, runs)
    return {
        "conv3d_tflops": 2 * 27 * 256 * 256 * 4 * height * width / conv / 1e12,
        "gemm_tflops": 2 * rows * side * 3 * side / gemm / 1e12,
        "copy_tb_s": copy_bandwidth(device, runs),
    }


def copy_bandwidth(device: torch.device, runs: int) -> float:
    """Speed of a copy on the device in TB/s, counting bytes read and bytes written."""
    source = torch.randn(2**28 if device.type == "cuda" else 2**22, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device, runs) / 1e12


def relative_distance(x: Tensor, reference: Tensor) -> float:
    """|x - reference| / |reference|, with Euclidean norms of all elements in float64."""
    return float((x.double() - reference.double()).norm() / reference.double().norm())
