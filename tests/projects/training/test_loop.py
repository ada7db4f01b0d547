"""Laws of the training loop, on a toy: exact resume, signals, bad samples, averages, accumulation."""

import itertools
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.distributed import checkpoint as checkpoint_module
from common.distributed.checkpoint import averaged_state, checkpoints
from common.distributed.process import process_group
from common.strict_settings import settings_from
from projects.video_diffusion_sr.training.ema import ExponentialMovingAverage
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.nan_guard import NonFiniteLoss
from projects.video_diffusion_sr.training.optimizer import learning_rate
from projects.video_diffusion_sr.training.settings import (
    CheckpointSettings,
    LogSettings,
    LoopSettings,
    OptimizerSettings,
)
from tests.projects.training.toy import Toy, ToySource, ToyStage

SETTINGS = LoopSettings(
    steps=6, accumulation=2, precision="float32", checkpoint=CheckpointSettings(2, 2), log=LogSettings(1, 3)
)
TIMES = {"samples_per_s", "steps_per_s", "tflops_per_device", "mfu", "data_wait", "memory_gib"}


class StoppedSource(ToySource):
    """Somebody sends SIGTERM while batch `number` is asked for."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def batches(self, start: int):
        for number, batch in enumerate(super().batches(start), start):
            if number == self.number:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


def train(folder: Path, source=None, settings: LoopSettings = SETTINGS, **stage) -> tuple[Trainer, bool]:
    with process_group("cpu") as process:
        trainer = Trainer(ToyStage(**stage), source or ToySource(), settings, folder, process)
        return trainer, trainer.run()


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def test_a_run_stopped_by_a_signal_goes_on_bit_for_bit(tmp_path):
    _, complete = train(tmp_path / "whole")
    assert complete
    stopped, complete = train(tmp_path / "parts", StoppedSource(6))  # batch 6 belongs to step 3
    assert not complete and stopped.step == 4
    _, complete = train(tmp_path / "parts", seed=9)  # other initial weights: everything must come from the checkpoint
    assert complete
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / "export" / "net.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_the_critic_moves_every_second_step_only(tmp_path):
    train(tmp_path)
    assert [any(key.startswith("critic/") for key in line) for line in metrics(tmp_path)] == [True, False] * 3


def test_only_the_newest_checkpoints_stay_and_the_export_is_the_last_average(tmp_path):
    trainer, _ = train(tmp_path)
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step_00000004", "step_00000006"]
    exported = load_file(tmp_path / "export" / "net.safetensors")
    from_checkpoint = averaged_state(checkpoints(tmp_path / "checkpoints")[-1])
    raw = averaged_state(checkpoints(tmp_path / "checkpoints")[-1], raw=True)
    trained = trainer.stage.modules["net"].state_dict()
    assert all(torch.equal(exported[key], from_checkpoint[key]) for key in exported)
    assert all(torch.equal(trained[key], raw[key]) for key in exported)
    assert not torch.equal(exported["out.weight"], raw["out.weight"])


def test_a_fault_while_writing_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    train(tmp_path, settings=replace(SETTINGS, steps=2))
    real = checkpoint_module.dcp.save

    def dies(state, **kwargs):
        real(state, **kwargs)
        raise OSError("the disk is full")

    monkeypatch.setattr(checkpoint_module.dcp, "save", dies)
    with pytest.raises(OSError, match="disk is full"):
        train(tmp_path)
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step_00000002"]
    monkeypatch.undo()
    assert train(tmp_path)[1]


def test_a_loss_that_is_no_number_names_its_samples_and_leaves_no_checkpoint(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"step 4.*clip 9\.1"):
        train(tmp_path, ToySource(bad=9))
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step_00000002", "step_00000004"]
    state = averaged_state(checkpoints(tmp_path / "checkpoints")[-1])
    assert all(value.isfinite().all() for value in state.values())
    assert not (tmp_path / "export").exists()


def test_another_seed_or_stage_does_not_resume(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match="seed 0"):
        train(tmp_path, settings=replace(SETTINGS, seed=1))
    ToyStage.name = "other"
    try:
        with pytest.raises(ValueError, match="of stage toy, not other"):
            train(tmp_path)
    finally:
        ToyStage.name = "toy"


@pytest.mark.parametrize("damage", ["cut", "lost", "metadata", "meta.json"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, damage):
    caplog.set_level("INFO")
    trainer, _ = train(tmp_path)
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    data = next(newest.glob("*.distcp"))
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-200])
    elif damage == "lost":
        data.unlink()
    else:
        (newest / {"metadata": ".metadata"}.get(damage, damage)).write_bytes(b"\x80\x04K")
    again, complete = train(tmp_path)
    assert complete and f"resumed from {newest.with_name('step_00000004')}" in caplog.text
    for one, other in zip(trainer.emas.values(), again.emas.values(), strict=True):
        assert all(torch.equal(one.average[name], other.average[name]) for name in one.average)
    for checkpoint in checkpoints(tmp_path / "checkpoints"):
        (checkpoint / ".metadata").write_bytes(b"")
    with pytest.raises(ValueError, match="metadata is damaged"):
        train(tmp_path)


def test_accumulated_gradients_are_those_of_one_large_batch(tmp_path):
    class Halves(ToySource):
        def batches(self, start):
            for batch in super().batches(start // 2):
                yield batch[:2]
                yield batch[2:]

    one_step = replace(SETTINGS, steps=1)
    whole, _ = train(tmp_path / "a", ToySource(), replace(one_step, accumulation=1), noise=0.0)
    parts, _ = train(tmp_path / "b", Halves(), one_step, noise=0.0)
    a, b = (metrics(tmp_path / name)[0] for name in ("a", "b"))
    assert a["generator/gradient_norm"] == pytest.approx(b["generator/gradient_norm"], rel=1e-5)
    for key, value in whole.stage.modules["net"].state_dict().items():
        torch.testing.assert_close(parts.stage.modules["net"].state_dict()[key], value, rtol=1e-4, atol=1e-6)


def test_the_average_is_the_sum_of_decayed_weights_and_leaves_the_module_as_it_was():
    net = Toy()
    average = ExponentialMovingAverage(net, 0.8)
    expected, history = net.out.weight.detach().clone(), []
    for step in range(5):
        with torch.no_grad():
            net.out.weight.add_(torch.randn_like(net.out.weight))
        history.append(net.out.weight.detach().clone())
        average.update(step)
    expected = 0.8**5 * expected + sum(0.2 * 0.8 ** (4 - i) * w for i, w in enumerate(history))
    torch.testing.assert_close(average.average["out.weight"], expected)
    with average.in_place():
        torch.testing.assert_close(net.out.weight.detach(), expected)
    assert torch.equal(net.out.weight, history[-1])
    torch.testing.assert_close(average.average["out.weight"], expected)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    settings = OptimizerSettings(lr=2.0, warmup=4, schedule="cosine", final=0.1)
    rates = [learning_rate(settings, step, 104) for step in range(105)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0 and rates[54] == pytest.approx(1.1) and rates[104] == pytest.approx(0.2)
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    assert learning_rate(replace(settings, schedule="constant"), 90, 104) == 2.0


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"sead": 1}, "unknown key sead"),
        ({"log": {"evry": 1}}, r"unknown key log\.evry.*did you mean every\?"),
        ({"steps": "many"}, "steps must be int"),
        ({"steps": True}, "steps must be int"),
        ({"precision": "fp8"}, "choose from bf16, float32"),
    ],
)
def test_settings_refuse_what_they_do_not_know(mapping, message):
    with pytest.raises(ValueError, match=message):
        settings_from(LoopSettings, mapping)


def test_frozen_networks_keep_their_precision_unless_the_stage_says_so(tmp_path):
    """In bfloat16 a teacher is kept in it; a stage that says nothing of its frozen networks trains as well."""
    for half, wanted in (((), torch.float32), (("frozen",), torch.bfloat16)):
        stage = ToyStage()
        stage.frozen["frozen"] = torch.nn.Linear(2, 2)
        stage.half = half or stage.half
        with process_group("cpu") as process:
            trainer = Trainer(stage, ToySource(), replace(SETTINGS, precision="bf16"), tmp_path / str(half), process)
            trainer.train_step(list(itertools.islice(ToySource().batches(0), 2)))
        assert stage.frozen["frozen"].weight.dtype == wanted
