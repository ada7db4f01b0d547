"""Training steps replayed as CUDA graphs give the losses of steps that run as they are."""

import pytest
import torch

from common.config import load_config
from common.create import create_object
from common.distributed.process import process_group
from projects.video_diffusion_sr.build import seeded_prompts
from projects.video_diffusion_sr.training.conditioning import Prompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.latents import MomentBatch
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.settings import LogSettings, LoopSettings, OptimizerSettings

pytestmark = pytest.mark.gpu

SIZES = ((3, 8, 12), (1, 16, 8))
STEPS = 12


class Alternating:
    """Batches of two shapes by turns."""

    def batches(self, start):
        for number in range(start, start + 10**6):
            size = SIZES[number % 2]
            draws = torch.Generator("cuda").manual_seed(number)
            rows = 2 * size[0] * size[1] * size[2]
            hq, lq = torch.randn(2, rows, 16, generator=draws, device="cuda")
            yield MomentBatch(hq, hq, lq, lq, (size,) * 2, (f"batch {number}",) * 2)


def train(folder, graphs: bool) -> list[dict[str, float]]:
    torch.manual_seed(0)
    recipe = create_object(load_config("configs_tiny/main.yaml", ["dit.model.num_layers=2"]))
    prompts = Prompts(*seeded_prompts(recipe.config.dit.model.txt_in_dim))
    optimizer = OptimizerSettings(lr=1e-3, warmup=4, schedule="cosine", clip=1.0)
    settings = DiffusionStageSettings(optimizer, prompt_dropout=0.0, noise_scale=0.0)
    stage = DiffusionStage(recipe, settings, prompts, None, with_vae=False)
    loop = LoopSettings(steps=STEPS, precision="float32", log=LogSettings(1, 0), graphs=graphs)
    with process_group("cuda") as process:
        trainer = Trainer(stage, Alternating(), loop, folder, process)
        stream = trainer.source.batches(0)
        records = []
        for _ in range(STEPS):
            record, _ = trainer.train_step([next(stream)])
            records.append({name: value.item() for name, value in record.scalars.items()})
        assert (trainer.turns.graphed is not None) == graphs
        if graphs:
            assert len(trainer.turns.graphed.captured) == len(SIZES)
        trainer.watch.check()
    return records


def test_replayed_steps_are_the_steps(tmp_path):
    """Losses, norms and with them draws, rates and updates; the two differ by the order of sums alone."""
    plain, graphed = train(tmp_path / "plain", False), train(tmp_path / "graphed", True)
    for one, two in zip(plain, graphed, strict=True):
        assert one == pytest.approx(two, rel=2e-3)
    assert plain[-1] != plain[-3]
