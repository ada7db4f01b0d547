"""Training steps replayed as CUDA graphs give the losses of steps that run as they are."""

import json

import pytest
import torch

from common.checkpoint import save_safetensors
from common.config import load_config
from common.create import create_object
from common.distributed.process import process_group
from projects.video_diffusion_sr.build import seeded_prompts
from projects.video_diffusion_sr.training.adversarial import AdversarialSettings, AdversarialStage, DiscriminatorStart
from projects.video_diffusion_sr.training.conditioning import TrainingPrompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.distill import DistillRound, DistillSettings, DistillStage
from projects.video_diffusion_sr.training.latent_stage import LatentStage
from projects.video_diffusion_sr.training.latents import PosteriorBatch
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.settings import LogSettings, LoopSettings, OptimizerSettings
from projects.video_diffusion_sr.training.stage import BatchSource

pytestmark = pytest.mark.gpu

SIZES = ((3, 8, 12), (1, 16, 8))
STEPS = 12


class Alternating(BatchSource):
    """Batches of two shapes by turns."""

    def batches(self, start):
        for number in range(start, start + 10**6):
            size = SIZES[number % 2]
            draws = torch.Generator("cuda").manual_seed(number)
            rows = 2 * size[0] * size[1] * size[2]
            hq, lq = torch.randn(2, rows, 16, generator=draws, device="cuda")
            yield PosteriorBatch(hq, hq, lq, lq, (size,) * 2, (f"batch {number}",) * 2)


def made(kind: str, folder) -> LatentStage:
    """A stage of two blocks with seeded weights."""
    torch.manual_seed(0)
    recipe = create_object(load_config("configs_tiny/main.yaml", ["dit.model.num_layers=2"]))
    prompts = TrainingPrompts(*seeded_prompts(recipe.config.dit.model.txt_in_dim))
    optimizer = OptimizerSettings(lr=1e-3, warmup=4, schedule="cosine", clip=1.0)
    common = {"recipe": recipe, "prompts": prompts, "with_vae": False}
    if kind == "diffusion":
        settings = DiffusionStageSettings(optimizer, prompt_dropout=0.0, noise_scale=0.0)
        return DiffusionStage(settings=settings, weights=None, **common)
    weights = folder / "start.safetensors"
    save_safetensors(recipe.build_dit()[0].state_dict(), weights)
    if kind == "distill":
        settings = DistillSettings(optimizer, (2,), noise_scale=0.0, ema_decay=0.9)
        return DistillStage(settings=settings, weights=weights, this_round=DistillRound(2, guided=False), **common)
    settings = AdversarialSettings(optimizer, optimizer, penalty_values=1e5, noise_scale=0.0)
    return AdversarialStage(settings=settings, weights=weights, discriminator=DiscriminatorStart(weights), **common)


def train(kind: str, folder, graphs: bool) -> list[dict[str, float]]:
    stage = made(kind, folder)
    loop = LoopSettings(steps=STEPS, precision="float32", log=LogSettings(1, 0), graphs=graphs)
    with process_group("cuda") as process:
        trainer = Trainer(stage, Alternating(), loop, folder, process)
        stream = trainer.source.batches(0)
        records = []
        for _ in range(STEPS):
            record, _ = trainer.train_step([next(stream)])
            records.append({name: value.item() for name, value in record.scalars.items()})
        assert (trainer.updates.graphed is not None) == graphs
        if graphs:
            assert all(len(updates.captured) == len(SIZES) for updates in trainer.updates.graphed.values())
        trainer.nan_guard.check()
    return records


@pytest.mark.parametrize("kind", ["diffusion", "distill", "adversarial"])
def test_replayed_steps_are_the_steps(tmp_path, kind):
    """Losses, norms and with them draws, rates and updates; the two differ by the order of sums alone."""
    plain, graphed = (train(kind, tmp_path / str(graphs), graphs) for graphs in (False, True))
    for one, two in zip(plain, graphed, strict=True):
        assert one == pytest.approx(two, rel=5e-3, abs=1e-4)
    assert plain[-1] != plain[-3]


def test_a_stopped_run_of_replayed_steps_goes_on(tmp_path, monkeypatch):
    """From its checkpoint, to the losses of an undisturbed run."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    loop = LoopSettings(steps=STEPS, precision="float32", log=LogSettings(1, 0), graphs=True)
    with process_group("cuda") as process:
        assert Trainer(made("diffusion", tmp_path), Alternating(), loop, whole, process).run()
        first = Trainer(made("diffusion", tmp_path), Alternating(), loop, parts, process)
        monkeypatch.setattr(first, "_asked_to_stop", lambda _request: first.step == STEPS // 2)
        assert not first.run()
        assert Trainer(made("diffusion", tmp_path), Alternating(), loop, parts, process).run()
    one, two = (losses(folder) for folder in (whole, parts))
    assert one.keys() == two.keys() and one == pytest.approx(two, rel=5e-3)


def losses(folder) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["dit/total"] for line in lines if "dit/total" in line}
