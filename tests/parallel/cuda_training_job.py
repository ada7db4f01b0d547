"""A job for torchrun on CUDA: training steps of every stage, sharded and with shared clips, equal those of one rank.

It needs no files and no logging libraries: steps are taken by the loop's own `train_step`.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.distributed import fsdp
from common.distributed.process import Process, process_group
from projects.video_diffusion_sr.training.loop import Trainer
from tests.parallel.stages import SETTINGS, Same, SameDraws, build, save_weights, without_constant

TOLERANCE = 2e-3  # of the third step's losses; float32, but other matrix sizes take other kernels
KINDS = ("diffusion", "distill", "adversarial")
WAYS = [(strategy, size) for size in (1, 2) for strategy in ("FULL_SHARD", "_HYBRID_SHARD_ZERO2")] + [("NO_SHARD", 2)]


def steps(trainer: Trainer, count: int) -> list[dict[str, float]]:
    """Losses of so many steps."""
    stream, found = trainer.source.batches(trainer.step), []
    for _ in range(count):
        record, _ = trainer.train_step([next(stream)])
        trainer.nan_guard.check()
        found.append(without_constant({name: value.item() for name, value in record.scalars.items()}))
    return found


def check_equal(expected: list[dict], got: list[dict], what: str) -> None:
    for step, (a, b) in enumerate(zip(expected, got, strict=True)):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert abs(b[name] - value) <= TOLERANCE * abs(value) + 1e-5, f"{what}, step {step}, {name}: {b[name]}"


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: fsdp.gather_full(value).cpu() for name, value in trainer.stage.modules["dit"].state_dict().items()}


def check_stage(kind: str, weights: Path, folder: Path, process: Process) -> None:
    """Every way of spreading a run against both ranks computing the same; the first also saved and resumed."""
    alone = SameDraws(build(kind, weights), Same(), SETTINGS, folder / "alone", process)
    expected = steps(alone, SETTINGS.steps)
    for strategy, size in WAYS:
        settings = replace(SETTINGS, sp_size=size)
        run = folder / f"{kind}-{strategy}-{size}"
        shared = SameDraws(build(kind, weights), Same(), settings, run, process, strategy)
        got = steps(shared, SETTINGS.steps - 1)
        shared.save(wait=True)
        process.barrier()
        again = SameDraws(build(kind, weights), Same(), settings, run, process, strategy)
        again.resume()
        assert again.step == SETTINGS.steps - 1
        check_equal(expected, got + steps(again, 1), f"{kind}, {strategy}, sp_size {size}")
        a, b = weights_of(alone), weights_of(again)
        assert all((a[name] - b[name]).abs().max() < 5e-4 for name in a)
        if process.is_leader:
            sys.stdout.write(f"{kind}, {strategy}, sp_size {size}: equal\n")


def main(device: str, folder: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with process_group(device, timeout_s=240) as process:
        weights = save_weights(Path(tempfile.mkdtemp()))
        for kind in KINDS:
            check_stage(kind, weights, folder, process)
        if process.is_leader:
            sys.stdout.write(f"equal on {process.world} with {process.backend} on {process.device}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
