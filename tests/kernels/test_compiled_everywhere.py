"""Every Triton kernel, compiled for every architecture by Triton's own compiler: no GPU and no driver is needed.

Launches are recorded from the entry points with the released networks' shapes, on tensors without data.
"""

import inspect
import os
import re
import subprocess
import tempfile

import pytest
import torch

from common.kernels.norm_statistics import Norm
from common.kernels.window_qkv import Stream

triton = pytest.importorskip("triton", reason="Triton is not installed, so no kernel can be compiled")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton's interpreter compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from common.kernels import frame_norm_triton as norm
from common.kernels import rgb_conv_triton as few
from common.kernels import softmax_triton, stream_triton, window_qkv_triton
from common.kernels import winograd_triton as winograd

pytestmark = pytest.mark.slow

KIB = 1024
SHARED = {80: 163 * KIB, 86: 99 * KIB, 89: 99 * KIB, 90: 227 * KIB, 100: 227 * KIB, 120: 99 * KIB}  # a block's most
REGISTERS = 65536  # of a block, on all of them
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int64: "i64"}
MODULES = (few, norm, softmax_triton, stream_triton, window_qkv_triton, winograd)
DTYPES = (torch.bfloat16, torch.float32)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def transformer(dtype: torch.dtype) -> None:
    """Blocks of the 3B (20 heads) and of the 7B (24 heads), 128 features each."""
    for heads in (20, 24):
        width, tokens, texts = heads * 128, 1000, 58
        x, of_token = empty(tokens, width, dtype=dtype), empty(tokens, dtype=torch.int64)
        for sample, rows in ((None, 1), (of_token, 2)):
            factor = empty(rows, width, dtype=dtype)
            stream_triton.norm_modulate(x, factor, factor, sample, 1e-5)
            stream_triton.gate_residual(x, x, factor, sample)
        stream_triton.silu_mul_(x, x)
        weight, turned = empty(128, dtype=dtype), (empty(tokens, 63), empty(tokens, 63))
        for text_turned in (None, (empty(texts, 63), empty(texts, 63))):
            video = Stream(empty(tokens, 3 * width, dtype=dtype), weight, weight, turned)
            text = Stream(empty(texts, 3 * width, dtype=dtype), weight, weight, text_turned)
            window_qkv_triton.gather(video, text, empty(tokens + texts, dtype=torch.int64), heads, 1e-5)


def vae(dtype: torch.dtype) -> None:
    """The VAE's levels, 128 to 512 channels."""
    softmax_triton.softmax(empty(64, 3600), 0.04, dtype)
    few.conv_from_rgb(empty(1, 4, 64, 96, 3, dtype=dtype), empty(128, 3, 3, 3, 3, dtype=dtype))
    half = torch.float32 if dtype == torch.float32 else torch.float16
    taps, sums = empty(1, 81, 1, 64, 96, dtype=half), empty(1, 2, 3, 64, 96)
    weight = empty(3, 128, 3, 3, 3, dtype=dtype)
    few.tap_projection(taps, empty(1, 1, 64, 96, 128, dtype=dtype), empty(1, 128), empty(1, 128), weight)
    for first in (True, False):
        few.streaming_tap_sum(taps, empty(3, dtype=dtype), sums, first)
    for channels in (128, 256, 512):
        x, bias = empty(1, 4, 64, 96, channels, dtype=dtype), empty(channels, dtype=dtype)
        group = Norm(bias, bias, 32, 1e-6, True)
        for deferred in (None, bias):
            statistics = norm.add(x, x, bias, x, deferred, measure=True)
            norm.coefficients(x, statistics, group, deferred)
            blocks = norm.group_statistics(x, statistics, group, deferred)
            norm.combine(blocks[None], group, deferred)
        norm.measure(x)
        norm.add_table(x, x, empty(2, 4, 4, channels, dtype=dtype), True)
        norm.scale_shift(x, x, empty(4, channels), empty(4, channels), True)
        for m in (2, 4):
            frames, products = x[:, :m], empty(m + 2, 1, 64, 96, channels, dtype=half)
            factor, carried = empty(m, channels), empty(1, 2, 64, 96, channels, dtype=half)
            winograd.transform_input(list(products), frames, factor, factor, True, carried, (0, 64), (0, 64))
            measured = norm.measure(frames)
            for table in (bias, empty(1, 4, 4, channels, dtype=dtype)):
                for source, deferred, kept in ((None, None, None), (frames, bias, measured)):
                    winograd.transform_output(frames, list(products), (0, 64), 0, table, source, deferred, kept)


def launches(monkeypatch, run, dtype: torch.dtype) -> dict:
    """{what is compiled: (kernel, source, warps)} for every different launch of `run`."""
    found = {}

    def record(kernel, *args, grid, warmup, num_warps, **constants):
        source = source_of(kernel, args, constants)
        found[kernel.__name__, str(source.signature), str(source.constants), str(source.attrs)] = (
            kernel, source, num_warps,
        )  # fmt: skip

    with monkeypatch.context() as patched:
        patched.setattr(JITFunction, "run", record)
        run(dtype)
    return found


def source_of(kernel: JITFunction, args: tuple, constants: dict) -> ASTSource:
    """A launch as the compiler takes it: types, constants, and which numbers 16 divides, as Triton specialises."""
    bound = inspect.signature(kernel.fn).bind(*args, **constants).arguments
    signature, fixed, attributes = {}, {}, {}
    for place, (name, value) in enumerate(bound.items()):
        if name in constants or value is None or value is True or value is False:
            signature[name], fixed[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = f"*{NAMES[value.dtype]}"
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(place,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constexprs=fixed, attrs=attributes)


def registers(cubin: bytes) -> int:
    """Of a thread, as NVIDIA's tool, which is part of Triton, reads them from a compiled kernel."""
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return max(int(found) for found in re.findall(r"REG:(\d+)", said))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_kernel_is_forgotten(monkeypatch, dtype):
    named = {
        name for module in MODULES for name, kernel in vars(module).items()
        if isinstance(kernel, JITFunction) and name.endswith("_kernel")
    }  # fmt: skip
    found = {**launches(monkeypatch, transformer, dtype), **launches(monkeypatch, vae, dtype)}
    assert named and {kernel.__name__ for kernel, *_ in found.values()} == named


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("run", [transformer, vae], ids=lambda run: run.__name__)
@pytest.mark.parametrize("architecture", SHARED)
def test_every_kernel_compiles_within_the_limits(monkeypatch, tmp_path, architecture, run, dtype):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found, target = launches(monkeypatch, run, dtype), GPUTarget("cuda", architecture, 32)
    assert found
    for kernel, source, warps in found.values():
        compiled = triton.compile(source, target=target, options={"num_warps": warps})
        used = registers(compiled.asm["cubin"]) * 32 * warps
        where = f"{kernel.__name__} {source.constants} on sm_{architecture}"
        assert compiled.metadata.shared <= SHARED[architecture], f"{where}: {compiled.metadata.shared} bytes shared"
        assert used <= REGISTERS, f"{where}: {used} registers"
