"""Times the VAE's most expensive convolutions, each in several variants with the same result.

`3d T=n`: a 3-D convolution of n new frames and two carried ones. `F(m,3)`: the m + 2 products of m new frames by
Winograd, without the transforms before and after them (`models.video_vae_v3.modules.winograd`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels.winograd import transform_dtype
from models.video_vae_v3.modules.schedule import F23, F43
from projects.benchmarking.timing import timed

LAST_2D, LAST_3D = torch.channels_last, torch.channels_last_3d
SEARCHED = "3d T=4", "F(4,3)"  # variants that are also timed with cudnn.benchmark
AT_LEAST = 0.1  # seconds for which a variant is called, about


@dataclass(frozen=True)
class Timing:
    """The speed of one variant of one convolution.

    layer, variant: their names.
    ms: milliseconds per new input frame.
    tflop_s: operations of the direct convolution, whatever the variant, in TFLOP/s.
    """

    layer: str
    variant: str
    ms: float
    tflop_s: float


def measure_convolutions(device: torch.device) -> list[dict[str, Any]]:
    """Time every variant of every layer: at 720p in bfloat16 on CUDA, with small float32 tensors elsewhere."""
    large = device.type == "cuda"
    dtype, size, width = (torch.bfloat16, (720, 1280), 128) if large else (torch.float32, (16, 24), 8)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    rows = []
    with torch.inference_mode():
        for layer, variant, frames, tflop, run in variants(draw, size, width):
            seconds = sustained(run, device) / frames
            rows.append(asdict(Timing(layer, variant, seconds * 1e3, tflop / seconds)))
            if variant in SEARCHED:
                with searching():
                    run()
                    seconds = sustained(run, device) / frames
                rows.append(asdict(Timing(layer, f"{variant}, cudnn.benchmark", seconds * 1e3, tflop / seconds)))
    return rows


class Variant(NamedTuple):
    """One variant of one layer.

    layer, name: their names.
    frames: number of new frames per call.
    tflop: 10^12 operations of the direct convolution per frame.
    run: makes one call.
    """

    layer: str
    name: str
    frames: int
    tflop: float
    run: Callable[[], object]


def variants(draw: Callable[..., Tensor], size: tuple[int, int], width: int) -> Iterator[Variant]:
    """Yield every variant of every layer.

    Args:
        draw: makes a random tensor of a shape.
        size: height and width of the largest picture.
        width: number of channels of the layers with the fewest.
    """
    for inner, outer, shrink in ((1, 1, 1), (2, 1, 1), (2, 2, 2), (4, 2, 2)):
        inner, outer, height, columns = inner * width, outer * width, size[0] // shrink, size[1] // shrink
        layer = f"{inner}->{outer} {height}x{columns}"
        tflop = 54 * inner * outer * height * columns / 1e12
        weight = draw(outer, inner, 3, 3, 3).to(memory_format=LAST_3D)
        for frames in (4, 2, 1):
            x = draw(1, inner, frames + 2, height, columns).to(memory_format=LAST_3D)
            yield Variant(layer, f"3d T={frames}", frames, tflop, partial(F.conv3d, x, weight, padding=(0, 1, 1)))
        for m in (F43, F23):
            products = winograd_products(draw, m, inner, outer, (height, columns))
            yield Variant(layer, f"F({m},3)", m, tflop, products)
    channels, height, columns = 2 * width, size[0] // 2, size[1] // 2
    layer = f"folded upsampler {channels} {height}x{columns}"
    tflop = 2 * 12 * channels**2 * 4 * height * columns / 1e12
    weight = draw(channels, channels, 3, 4, 4).to(memory_format=LAST_3D)
    for frames in (4, 1):
        x = draw(1, channels, frames + 2, height, columns).to(memory_format=LAST_3D)
        run = partial(F.conv_transpose3d, x, weight, None, (1, 2, 2), (2, 1, 1))
        yield Variant(layer, f"3d T={frames}", frames, tflop, run)


def winograd_products(
    draw: Callable[..., Tensor], m: int, inner: int, outer: int, size: tuple[int, int]
) -> Callable[[], object]:
    """A function that computes the m + 2 2-D convolutions for m frames of `size` (height, width)."""
    dtype = transform_dtype(draw(1).dtype)
    frames = [draw(1, inner, *size).to(dtype, memory_format=LAST_2D) for _ in range(m + 2)]
    weights = [draw(outer, inner, 3, 3).to(dtype, memory_format=LAST_2D) for _ in range(m + 2)]
    return lambda: list(map(product, frames, weights))


def product(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


def sustained(run: Callable[[], object], device: torch.device) -> float:
    """Seconds per call in a series of calls, because a warm chip is slower than a cold one."""
    run()
    once = timed(run, device)
    count = max(3, int(AT_LEAST / once))
    return timed(lambda: [run() for _ in range(count)] and None, device) / count


@contextmanager
def searching() -> Iterator[None]:
    """Within this block, cuDNN benchmarks its algorithms instead of choosing one by heuristics."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    yield
    torch.backends.cudnn.benchmark = before


def convolution_table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'layer':<34} {'variant':<24} {'ms a frame':>10} {'TFLOP/s':>8}"]
    lines += [f"{row['layer']:<34} {row['variant']:<24} {row['ms']:10.3f} {row['tflop_s']:8.1f}" for row in rows]
    return "\n".join(lines)
