"""Times each Triton kernel against its plain PyTorch path, and folded upsamplers against the layers they replace."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels import frame_norm
from common.kernels.norm_statistics import Norm
from common.kernels.triton_support import Kernels, kernels
from common.kernels.winograd import new_statistics, transform_dtype, transform_input, transform_output
from common.kernels.winograd_matrices import CARRIED
from models.video_vae_v3.modules.schedule import F23, F43
from projects.benchmarking.timing import median_seconds


@dataclass(frozen=True)
class Case:
    """An operation with two implementations.

    name, size: its name and the sizes of its tensors.
    kernel, plain: calls of the two implementations.
    gigabytes: the least memory traffic, in 10^9 bytes.
    tflop: the least arithmetic, in 10^12 operations; 0: not counted.
    """

    name: str
    size: str
    kernel: Callable[[], object]
    plain: Callable[[], object]
    gigabytes: float = 0.0
    tflop: float = 0.0


@dataclass(frozen=True)
class Row:
    """The measurement of one case.

    name, size: see `Case`.
    own_ms, plain_ms: milliseconds of the kernel and of the plain path.
    tb_s: memory traffic of the kernel in TB/s.
    tflop_s: arithmetic of the kernel in TFLOP/s.
    """

    name: str
    size: str
    own_ms: float
    plain_ms: float
    tb_s: float
    tflop_s: float


def measure_kernels(device: torch.device) -> list[dict[str, Any]]:
    """Time every kernel, one row each: at 720p sizes in bfloat16 on CUDA, with small float32 tensors elsewhere."""
    large = device.type == "cuda"
    dtype = torch.bfloat16 if large else torch.float32
    rows = []
    with torch.inference_mode():
        for case in cases(device, dtype, (720, 1280) if large else (24, 32), 128 if large else 16):
            seconds = median_seconds(case.kernel, device, 9)
            plain = median_seconds(case.plain, device, 5)
            row = Row(
                case.name, case.size, seconds * 1e3, plain * 1e3, case.gigabytes / seconds / 1e3, case.tflop / seconds
            )
            rows.append(asdict(row))
    return rows


def kernel_table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'kernel':<28} {'size':<26} {'own ms':>9} {'plain ms':>9} {'gain':>6} {'TB/s':>6} {'TFLOP/s':>8}"]
    for row in rows:
        lines.append(
            f"{row['name']:<28} {row['size']:<26} {row['own_ms']:9.3f} {row['plain_ms']:9.3f} "
            f"{row['plain_ms'] / row['own_ms']:6.2f} {row['tb_s']:6.2f} {row['tflop_s']:8.1f}"
        )
    return "\n".join(lines)


def without_kernels(run: Callable[[], object]) -> Callable[[], object]:
    """The same call with plain PyTorch instead of Triton kernels."""

    def plain() -> object:
        with kernels(Kernels.PLAIN):
            return run()

    return plain


def cases(device: torch.device, dtype: torch.dtype, size: tuple[int, int], width: int) -> Iterator[Case]:
    """Yield the VAE's passes at full resolution, its wide attention, and its folded upsamplers."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    for frames, channels, shrink in ((4, width, 1), (1, width, 1), (4, 2 * width, 2), (1, 4 * width, 8)):
        shape = (1, frames, size[0] // shrink, size[1] // shrink, channels)
        x, y, out = draw(*shape), draw(*shape), draw(*shape)
        weight, bias = draw(channels), draw(channels)
        gigabytes = x.nbytes / 1e9

        of_frames = Norm(weight, bias, min(32, channels), 1e-6, True)

        def norm(out: Tensor = out, x: Tensor = x, of_frames: Norm = of_frames) -> None:
            frame_norm.norm_silu_into(out, x, of_frames)

        def add(y: Tensor = y, bias: Tensor = bias, x: Tensor = x) -> None:
            frame_norm.add_bias_residual(y, bias, x)

        about = "x".join(map(str, shape[1:]))
        yield Case("GroupNorm + SiLU", about, norm, without_kernels(norm), 3 * gigabytes)
        yield Case("bias + residual + statistics", about, add, without_kernels(add), 3 * gigabytes)
    yield from winograd_cases(draw, size, width)
    yield from conv_cases(draw, size, width)
    tokens = size[0] * size[1] // 64
    q, k, v = draw(1, tokens, 4 * width), draw(1, tokens, 4 * width), draw(1, tokens, 4 * width)

    def attend() -> Tensor:
        return frame_norm.wide_attention(q, k, v)

    tflop = 4 * tokens**2 * 4 * width / 1e12
    yield Case("one wide head", f"{tokens}x{4 * width}", attend, without_kernels(attend), tflop=tflop)


def winograd_cases(draw: Callable[..., Tensor], size: tuple[int, int], width: int) -> Iterator[Case]:
    """Yield the input and output transforms of Winograd's F(m, 3), on a block of an eighth of the rows."""
    for m, channels, shrink in ((F43, width, 1), (F43, 2 * width, 2), (F23, width, 1)):
        height, columns = size[0] // shrink, size[1] // shrink
        rows, x = (height // 8, height // 4), draw(1, m, height, columns, channels)
        scale, shift = draw(m, channels).float(), draw(m, channels).float()
        past = draw(1, CARRIED, height, columns, channels).to(transform_dtype(x.dtype))
        block = draw(m + 2, 1, rows[1] - rows[0], columns, channels).to(past)
        bias, out = draw(channels), torch.empty_like(x)

        combine = partial(transform_input, list(block), x, scale, shift, True, past, rows, rows)

        def finish(
            out: Tensor = out, block: Tensor = block, rows: tuple[int, int] = rows, bias: Tensor = bias, x: Tensor = x
        ) -> None:
            transform_output(out, list(block), rows, 0, bias, x, None, new_statistics(out))

        about, frame = f"F({m},3) {channels} {block.shape[2]}x{columns}", block[0].nbytes / 1e9
        # Frames read and written. Input: m new ones, two carried ones both read and written, m + 2 transformed ones.
        # Output: m + 2 products, m frames both read and written.
        yield Case("norm, SiLU, transform", about, combine, without_kernels(combine), (2 * m + 6) * frame)
        yield Case("sum of products, statistics", about, finish, without_kernels(finish), (3 * m + 2) * frame)


def conv_cases(draw: Callable[..., Tensor], size: tuple[int, int], width: int) -> Iterator[Case]:
    """Yield convolutions as they are called, against the NCDHW layout or against time stacked in the channels."""
    last = torch.channels_last_3d
    for inner, outer, shrink, frames in (
        (width, width, 1, 4), (2 * width, width, 1, 4), (2 * width, 2 * width, 2, 4), (width, 8, 1, 4)
    ):  # fmt: skip
        height, columns = size[0] // shrink, size[1] // shrink
        x = draw(1, inner, frames + 2, height, columns).to(memory_format=last)
        weight = draw(outer, inner, 3, 3, 3).to(memory_format=last)
        stacked = draw(frames, 3 * inner, height, columns).to(memory_format=torch.channels_last)
        flat = draw(outer, 3 * inner, 3, 3).to(memory_format=torch.channels_last)
        yield Case(
            "conv3d vs stacked conv2d",
            f"{inner}->{outer} {frames}x{height}x{columns}",
            partial(F.conv3d, x, weight, padding=(0, 1, 1)),
            partial(F.conv2d, stacked, flat, padding=1),
            tflop=54 * inner * outer * frames * height * columns / 1e12,
        )
    for channels, z, shrink, frames in ((4 * width, 2, 4, 2), (2 * width, 1, 2, 4)):
        height, columns = size[0] // shrink, size[1] // shrink
        past, kernel = (1, 4) if z == 2 else (2, 3)
        x = draw(1, channels, past + frames, height, columns).to(memory_format=last)
        folded = draw(channels, channels, kernel, 4, 4).to(memory_format=last)
        big = draw(1, channels, z * frames + 2, 2 * height, 2 * columns).to(memory_format=last)
        weight = draw(channels, channels, 3, 3, 3).to(memory_format=last)
        taps = 8 if z == 2 else 12
        yield Case(
            "folded upsampler",
            f"{channels} {frames}x{height}x{columns}",
            partial(F.conv_transpose3d, x, folded, None, (z, 2, 2), (2, 1, 1)),
            partial(F.conv3d, big, weight, padding=(0, 1, 1)),
            tflop=2 * taps * channels**2 * z * frames * 4 * height * columns / 1e12,
        )
