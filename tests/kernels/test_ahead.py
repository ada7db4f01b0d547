"""Kernels compiled ahead: the dry run meets every launch of a real run, and its failures cost nothing."""

import logging
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from common.distributed.row_parallel import RowBlocks
from common.kernels import ahead
from common.kernels.triton_support import Kernels, kernels, launch, use_triton
from models.video_vae_v3.modules.fold import prepare_inference
from models.video_vae_v3.modules.schedule import (
    F23,
    F43,
    LevelSchedule,
    Schedule,
    default_schedule,
    level_shapes,
)
from projects.video_diffusion_sr.build import seed_weights
from projects.video_diffusion_sr.dry_run import different_clips, dry_rows, dry_run, slices_of
from projects.video_diffusion_sr.memory.budget import Clip
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.presets import PRESETS
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.settings import resolve

ALONE = SimpleNamespace(size=1)


class Recorder:
    """Stands for a kernel: keeps what it would be compiled for."""

    def __init__(self) -> None:
        self.compiled, self.run = [], []

    def warmup(self, *arguments, grid, **constants) -> None:
        self.compiled.append((arguments, grid, constants))

    def __getitem__(self, grid):
        return lambda *arguments, **constants: self.run.append((arguments, grid, constants))


def test_a_launch_ahead_compiles_and_does_not_run():
    kernel, x = Recorder(), torch.empty(3, device="meta", dtype=torch.float16)
    with kernels(Kernels.AHEAD):
        launch(kernel, (2, 1), x, 5, WIDE=True)
    launch(kernel, (2, 1), x, 5, WIDE=True)
    assert kernel.compiled == [((torch.float16, 5), (2, 1), {"WIDE": True})]
    assert kernel.run == [((x, 5), (2, 1), {"WIDE": True})]


def test_only_meta_tensors_are_taken_ahead(monkeypatch):
    monkeypatch.setattr("common.kernels.triton_support.triton_available", lambda: True)
    with torch.no_grad(), kernels(Kernels.AHEAD):
        assert use_triton(torch.empty(2, device="meta"))
        assert not use_triton(torch.empty(2))
        assert not use_triton(torch.empty(2, device="meta"), torch.empty(2))


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 9, 10, 16, 17, 21, 22, 97, None])
@pytest.mark.parametrize("size", [4, 8, 16, None])
def test_slices_of_a_dry_run_are_those_of_the_clip(frames, size):
    """Every length that the pipeline cuts a clip into, in order, without repetitions in between."""
    schedule, factor = default_schedule(level_shapes((128, 256, 512, 512), 2), 64, 64, size, F43), 4
    real = 97 if frames is None else frames
    padded = 1 + -(-(real - 1) // factor) * factor
    latents = (padded - 1) // factor + 1
    if size is None:
        cut, cut_latents = [padded], [latents]
    else:
        cut = [min(1 + size, padded)] + [min(size, padded - n) for n in range(1 + size, padded, size)]
        cut_latents = [min(size // factor, latents - n) for n in range(0, latents, size // factor)]
    seen, seen_latents = list(slices_of(schedule, frames, factor)), list(slices_of(schedule, frames, factor, True))
    if frames is None:
        assert seen[0] >= 1 and (size is None or size in seen)
        return
    assert seen[0] == cut[0] and set(seen) == set(cut) and sum(seen) <= padded
    assert seen_latents[0] == cut_latents[0] and set(seen_latents) == set(cut_latents) and sum(seen_latents) <= latents


def recorded(monkeypatch, run) -> set:
    """Kernels and compile-time constants of all launches of `run`, whatever really runs."""
    found = set()

    def record(kernel, grid, *arguments, **constants):
        kinds = tuple(x.dtype if isinstance(x, torch.Tensor) else type(x) for x in arguments)
        found.add((kernel, kinds, tuple(constants.items())))

    for name in ("frame_norm", "rgb_conv", "softmax", "stream", "window_qkv", "winograd"):
        monkeypatch.setattr(f"common.kernels.{name}_triton.launch", record)
    run()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("winograd", [F43, F23])
def test_the_dry_run_meets_every_launch_of_the_vae(monkeypatch, winograd):
    """The real slices on the CPU, with kernels that write nothing, against the dry run of the same clip."""
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr("common.kernels.triton_support.triton_available", lambda: True)
    size, frames = (32, 48), 22
    settings = resolve(PRESETS["seedvr2_tiny"], Request(res=size, random_weights=True), torch.device("cpu"))
    large = LevelSchedule(group=winograd, winograd=winograd)
    schedule = Schedule(8, (large,) * (len(settings.vae.levels) - 1) + (LevelSchedule(),))
    dry = dry_run(settings, ALONE, different_clips(settings, [(Clip(*size, frames), MemoryPlan(schedule))]))
    with torch.no_grad(), kernels(Kernels.AHEAD):
        ahead_of_time = recorded(monkeypatch, dry)

    seed_weights(settings.vae, torch.device("cpu"), torch.float32)
    prepare_inference(settings.vae, winograd=schedule.winograds)
    memory, other = settings.vae.new_memory(schedule), settings.vae.new_memory(schedule)

    def real() -> None:
        for length in (9, 8, 8):  # 22 frames, filled up to 25
            settings.vae.encode_slice(torch.zeros(1, 3, length, *size), memory)
        for length in (2, 2, 2, 1):
            settings.vae.decode_slice(
                torch.zeros(1, settings.vae.latent_channels, length, *(n // 8 for n in size)), other
            )

    monkeypatch.setenv("TRITON_INTERPRET", "1")  # CPU tensors count as a GPU's
    with torch.no_grad():
        assert recorded(monkeypatch, real) <= ahead_of_time


def test_a_rank_of_a_dry_run_has_the_rows_of_the_real_one():
    for ranks in (2, 3, 8):
        blocks = RowBlocks.of(7, ranks)
        for rank in range(blocks.active):
            rows = dry_rows(7, SimpleNamespace(size=ranks, group=SimpleNamespace(rank=rank)))
            x = torch.empty(1, 2, rows.local_rows, 5, 4, device="meta")
            above, below = rows.neighbours(x)
            assert (above is None) == (rank == 0) and (below is None) == (rank == blocks.active - 1)
            assert rows.gather(x[0, 0, 0]).shape == (blocks.active, 5, 4)
            assert rows.gather_pixels(x.flatten(2, 3).flatten(0, 1)).shape == (2, 35, 4)
    assert dry_rows(7, ALONE) is None


class Mode:
    """Triton's context for compiling in threads, without Triton."""

    def __init__(self, pool) -> None:
        self.pool = pool

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.pool.shutdown()


@pytest.fixture
def threads(monkeypatch, tmp_path):
    """`compiled_ahead` as on a GPU, with a compiler that takes no kernel and a folder of its own."""
    monkeypatch.setattr(ahead, "triton_available", lambda: True)
    monkeypatch.setattr(ahead, "compile_mode", lambda: Mode)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(ahead, "mark_of", lambda key, device: tmp_path / "cache" / key)


def test_an_error_of_the_dry_run_does_not_reach_the_run(threads, caplog):
    def broken() -> None:
        raise RuntimeError("no such instruction")

    for _ in range(2):  # and what failed is tried again
        caplog.clear()
        with caplog.at_level(logging.DEBUG), ahead.compiled_ahead(broken, torch.device("cuda", 0), "key"):
            pass
        assert "no such instruction" in caplog.text
        assert all(record.levelno <= logging.DEBUG for record in caplog.records)


def test_what_was_compiled_is_not_compiled_again(threads):
    done = []
    for key in ("one", "two", "one"):
        with ahead.compiled_ahead(lambda key=key: done.append(key), torch.device("cuda", 0), key):
            pass
    assert done == ["one", "two"]


def test_an_interrupted_start_does_not_wait_for_the_compiler(threads):
    held = threading.Event()
    with pytest.raises(KeyboardInterrupt), ahead.compiled_ahead(lambda: held.wait(60), torch.device("cuda", 0), "key"):
        raise KeyboardInterrupt
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "compile kernels"]
    assert thread.is_alive() and not held.is_set()
    held.set()
    thread.join()


def test_without_a_gpu_nothing_is_compiled():
    def never() -> None:
        raise AssertionError("there is no GPU to compile for")

    with ahead.compiled_ahead(never, torch.device("cpu"), "key"):
        pass
