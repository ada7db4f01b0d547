"""What runs of weeks need: bad steps left out, checkpoints beside training, validation, records of settings."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from common.distributed.async_checkpoint import AsyncCheckpoints
from common.distributed.checkpoint import checkpoints, load_checkpoint
from common.distributed.process import process_group
from data.training.sampling import ClipShape
from projects.evaluation.measures import psnr
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.nan_guard import NonFiniteLoss
from projects.video_diffusion_sr.training.run_record import differences, record_start
from projects.video_diffusion_sr.training.settings import (
    BadStepSettings,
    CheckpointSettings,
    LogSettings,
    LoopSettings,
    ProfileSettings,
    ValidationSettings,
)
from projects.video_diffusion_sr.training.sources import fitting_workers, in_batches
from projects.video_diffusion_sr.training.validation import Validation
from tests.projects.training.toy import WIDTH, ToySource, ToyStage

SETTINGS = LoopSettings(
    steps=6, precision="float32", checkpoint=CheckpointSettings(2, 2), log=LogSettings(1, 0), graphs=False
)
ROLLING = replace(SETTINGS, bad_steps=BadStepSettings(most=2))


def train(folder: Path, source=None, settings: LoopSettings = SETTINGS, validation=None, stage=None) -> Trainer:
    with process_group("cpu") as process:
        trainer = Trainer(stage or ToyStage(), source or ToySource(), settings, folder, process, "NO_SHARD", validation)
        assert trainer.run()
        return trainer


def exported(folder: Path) -> dict:
    return load_file(folder / "export" / "net.safetensors")


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("bad", [0, 3])
def test_a_bad_step_is_left_out_and_a_resumed_run_does_the_same(tmp_path, bad):
    """Also the very first, before any checkpoint; what follows is what a run computes that knew it from the start."""
    whole = train(tmp_path / "whole", ToySource(bad=bad), ROLLING)
    assert json.loads((tmp_path / "whole/skipped_steps.json").read_text()) == [bad]
    assert whole.step == 6 and [line["step"] for line in metrics(tmp_path / "whole")] == list(range(6))
    assert all(value.isfinite().all() for value in exported(tmp_path / "whole").values())

    (tmp_path / "told").mkdir()
    (tmp_path / "told/skipped_steps.json").write_text(json.dumps([bad]))
    train(tmp_path / "told", ToySource(bad=bad), ROLLING)
    train(tmp_path / "parts", ToySource(bad=bad), replace(ROLLING, steps=4))
    train(tmp_path / "parts", ToySource(bad=bad), ROLLING)
    good = train(tmp_path / "good", ToySource(), ROLLING)
    assert same(exported(tmp_path / "whole"), exported(tmp_path / "told"))
    assert good.bad_steps.steps == set() and not same(exported(tmp_path / "whole"), exported(tmp_path / "good"))


def test_no_more_steps_are_left_out_than_allowed(tmp_path):
    class Bad(ToySource):
        def _sample(self, number, slot):
            return super()._sample(number, slot) | ({"x": torch.full((WIDTH,), torch.nan)} if number > 2 else {})

    with pytest.raises(NonFiniteLoss, match="step 5"):
        train(tmp_path, Bad(), ROLLING)
    assert json.loads((tmp_path / "skipped_steps.json").read_text()) == [3, 4]


def test_a_norm_out_of_all_proportion_is_bad_too(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"its norm is above 0\.001"):
        train(tmp_path, settings=replace(SETTINGS, bad_steps=BadStepSettings(most_norm=1e-3)))


def test_checkpoints_beside_training_are_those_of_a_run_that_waits(tmp_path):
    """And hold the values of their own step, though training goes on while they are written."""
    beside = replace(SETTINGS, checkpoint=CheckpointSettings(2, 9, asynchronous=True))
    train(tmp_path / "waits", settings=replace(SETTINGS, checkpoint=CheckpointSettings(2, 9)))
    train(tmp_path / "beside", settings=beside)
    for a, b in zip(*(checkpoints(tmp_path / n / "checkpoints") for n in ("waits", "beside")), strict=True):
        assert a.name == b.name
        values = []
        for path in (a, b):
            tensors = {"modules/net.out.weight": torch.zeros(1, WIDTH)}
            load_checkpoint(path, tensors)
            values.append(tensors["modules/net.out.weight"])
        assert torch.equal(*values)
    train(tmp_path / "beside", settings=replace(beside, steps=8))
    train(tmp_path / "waits", settings=replace(SETTINGS, steps=8))
    assert same(exported(tmp_path / "waits"), exported(tmp_path / "beside"))


def test_an_unfinished_checkpoint_is_none(tmp_path):
    writer = AsyncCheckpoints(tmp_path, keep=2)
    value = torch.arange(4.0)
    writer.start(5, {"x": value}, {"stage": "toy"})
    assert checkpoints(tmp_path) == []
    value += 1  # training goes on
    writer.finish()
    (path,) = checkpoints(tmp_path)
    read = {"x": torch.zeros(4)}
    load_checkpoint(path, read)
    assert torch.equal(read["x"], torch.arange(4.0))


def test_an_average_counts_the_steps_in_which_its_network_moved(tmp_path):
    """With a generator that moves every second step, five steps are three updates."""
    stage = ToyStage()
    stage.players = (replace(stage.players[0], start=10**6), replace(stage.players[1], every=2))
    weights = lambda: stage.modules["net"].out.weight.detach().clone()  # noqa: E731
    with process_group("cpu") as process:
        trainer = Trainer(stage, ToySource(), SETTINGS, tmp_path, process)
        stream, expected, moved = trainer.source.batches(0), weights(), []
        for _ in range(5):
            before = weights()
            trainer.train_step([next(stream)])
            moved.append(not torch.equal(before, weights()))
            if moved[-1]:
                expected = 0.9 * expected + 0.1 * weights()
    assert moved == [True, False, True, False, True]
    torch.testing.assert_close(trainer.emas["net"].average["out.weight"], expected)


CLIPS = [[{"level": 0.1, "identity": "a"}], [{"level": 0.5, "identity": "b"}], [{"level": -0.5, "identity": "c"}]]


class Restorer(ToyStage):
    """Answers each held-out clip a little too bright, and notes which weights it answers with."""

    def validate(self, batch, generator, decode=True):
        self.seen = self.modules["net"].out.weight.detach().clone()
        self.drawn = [*getattr(self, "drawn", []), torch.rand(1, generator=generator).item()]
        truths = [torch.full((3, 2, 32, 32), sample["level"]) for sample in batch]
        return [(truth + 0.12, truth) for truth in truths]


def test_held_out_clips_are_measured_on_averaged_weights(tmp_path):
    settings = replace(SETTINGS, validation=ValidationSettings(every=4, batches=2))
    with process_group("cpu") as process:
        validation = Validation(CLIPS, settings.validation, process)
    trainer = train(tmp_path, settings=settings, validation=validation, stage=Restorer())
    lines = [line for line in metrics(tmp_path) if "validation/psnr" in line]
    assert [line["step"] for line in lines] == [3, 5]  # every fourth, and after the last
    levels = [np.full((32, 32, 3), round((level + 1) * 127.5), np.uint8) for level in (0.1, 0.5, -0.5)]
    bright = [np.full((32, 32, 3), round((level + 1.12) * 127.5), np.uint8) for level in (0.1, 0.5, -0.5)]
    expected = np.mean([psnr(a, b) for a, b in zip(bright, levels, strict=True)])
    assert lines[0]["validation/psnr"] == pytest.approx(expected, abs=1e-4)
    assert torch.equal(trainer.stage.seen, trainer.emas["net"].average["out.weight"])
    drawn = trainer.stage.drawn
    assert drawn[:3] == drawn[3:] and len(set(drawn)) == 3  # the same noise each time
    with process_group("cpu") as process, pytest.raises(NotImplementedError, match="remove --validation"):
        Trainer(ToyStage(), ToySource(), settings, tmp_path / "b", process, "NO_SHARD", trainer.validation).run()


def test_the_log_says_what_a_run_waits_for_and_holds(tmp_path):
    class Full(ToySource):
        def fill(self, number):
            return 0.75

    train(tmp_path, Full(), replace(SETTINGS, log=LogSettings(every=3, images=0)))
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [0, 2, 5]  # the first step at once, then every third
    for line in lines:
        assert 0 <= line["data_wait"] <= 1 and line["memory_gib"] > 0.01 and line["batch_fill"] == 0.75


def test_a_trace_is_written_where_it_is_asked_for(tmp_path):
    train(tmp_path, settings=replace(SETTINGS, profile=ProfileSettings(start=1, steps=2)))
    trace = json.loads((tmp_path / "profile" / "rank_000.json").read_text())
    assert any("backward" in event.get("name", "").lower() for event in trace["traceEvents"])


def test_a_start_is_recorded_and_changes_are_said(tmp_path, caplog):
    model, options = {"dit": {"blocks": 4}}, {"stage": "diffusion"}
    assert record_start(tmp_path, model, {"steps": 5, "data": {"workers": 1}}, options) == []
    assert record_start(tmp_path, model, {"steps": 5, "data": {"workers": 1}}, options) == []
    changed = record_start(tmp_path, model, {"steps": 9, "data": {"workers": 1}}, options)
    assert changed == ["train.steps: 5 -> 9"] and "train.steps: 5 -> 9" in caplog.text
    kept = [yaml.safe_load(path.read_text()) for path in sorted((tmp_path / "starts").iterdir())]
    assert [start["train"]["steps"] for start in kept] == [5, 5, 9] and kept[0]["model"] == model
    assert all(start["command"] and start["revision"] and start["torch"] for start in kept)
    model["dit"]["window"] = [(1, 2)]  # a file gives a list back
    record_start(tmp_path, model, {"steps": 9, "data": {"workers": 1}}, options)
    assert record_start(tmp_path, model, {"steps": 9, "data": {"workers": 1}}, options) == []
    assert differences({"a": [1], "b": 1}, {"a": [2], "c": 3}) == ["a: [1] -> [2]", "b: 1 -> None", "c: None -> 3"]


def test_workers_are_no_more_than_cores_and_shapes_are_scheduled_in_steps():
    with process_group("cpu") as process:
        assert fitting_workers(10**6, process) <= 4096 and fitting_workers(0, process) == 0
    assert in_batches(ClipShape(1, 4, 4, start=3, end=5), 2) == ClipShape(1, 4, 4, start=6, end=10)
    assert in_batches(ClipShape(1, 4, 4), 2).end is None


def test_on_a_cpu_nothing_is_compiled(tmp_path, monkeypatch):
    """A recipe that asks for it runs all the same."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *arguments, **options: pytest.fail("compiled on a CPU"))
    train(tmp_path, settings=replace(SETTINGS, steps=1, compile=True))


def test_a_run_says_what_it_trains_before_its_first_step(tmp_path, caplog):
    with caplog.at_level("INFO"):
        train(tmp_path, settings=replace(SETTINGS, steps=2, log=LogSettings(every=50, images=0)))
    said = [record.getMessage() for record in caplog.records if "projects" in record.name]
    first = next(i for i, line in enumerate(said) if line.startswith("step 1/2"))
    before = " ".join(said[:first])
    assert "stage toy on 1 x CPU, float32" in before and "net" in before and "trained" in before
    assert f"steps 1 to 2 into {tmp_path}" in before
    caplog.clear()
    with caplog.at_level("INFO"):
        train(tmp_path, settings=replace(SETTINGS, steps=2))
    assert "has all its 2 steps" in caplog.text and "steps 3 to 2" not in caplog.text
