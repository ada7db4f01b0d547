"""Does each stage do what the papers say? On a problem whose answer is known, with the program's stages and loop.

A clip's ground truth is its condition plus or minus a fixed pattern P, each sign half the time: hq = lq + s P. What is
measured is the coefficient p of P in what a model restores. The mean of all right answers is p = 0 (a blurred picture);
a sample of them has p = 1 or p = -1. One step of a diffusion model gives the mean, many steps a sample; distillation
must bring samples into fewer steps, and the adversarial stage repairs what that loses. L1 and features alone pull back
towards the mean.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.diffusion import Guidance
from common.distributed.process import process_group
from projects.video_diffusion_sr.training.adversarial import AdversarialSettings, AdversarialStage, LossWeights
from projects.video_diffusion_sr.training.conditioning import Prompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.distill import DistillSettings, DistillStage
from projects.video_diffusion_sr.training.latent_stage import LatentStage
from projects.video_diffusion_sr.training.latents import MomentBatch
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.settings import (
    CheckpointSettings,
    LogSettings,
    LoopSettings,
    OptimizerSettings,
)
from projects.video_diffusion_sr.training.stage import Source
from tests.projects.training.tiny import make_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SIZE, CHANNELS, BATCH = (1, 4, 4), 16, 48
POSITIONS = 16
WIDTH = 96  # wider than the 64 values of a token: a narrower network cannot carry the noise that v holds
NEVER = 10**9
NETWORK = [
    f"dit.model.vid_dim={WIDTH}",
    f"dit.model.txt_in_dim={WIDTH}",
    "dit.model.head_dim=48",
    "dit.model.rope_dim=48",
    "vae.use_sample=False",
    "condition.noise_scale=0.0",
    "diffusion.cfg.scale=1.0",
]


def batch_of(number: int, count: int, seed: int) -> MomentBatch:
    """Conditions at random, ground truths one pattern above or below them."""
    draws = torch.Generator().manual_seed(1_000_003 * number + seed)
    lq = 0.5 * torch.randn(count, POSITIONS, CHANNELS, generator=draws)
    sign = (torch.rand(count, 1, 1, generator=draws) < 0.5).float() * 2 - 1
    hq, lq = (lq + sign * pattern()).flatten(0, 1), lq.flatten(0, 1)
    none = torch.zeros_like(lq)
    return MomentBatch(hq, none, lq, none, (SIZE,) * count, tuple(f"sample {i}" for i in range(count)))


def pattern() -> Tensor:
    """P, [positions, channels]."""
    return 0.6 * torch.randn(POSITIONS, CHANNELS, generator=torch.Generator().manual_seed(7)).sign()


class Pairs(Source):
    """Batches of the problem."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def batches(self, start: int):
        while True:
            yield batch_of(start, BATCH, self.seed)
            start += 1


@dataclass(frozen=True)
class Answers:
    """Of a model on new samples.

    near: how many have p within 0.3 of 1 or -1. size: the mean of |p|. balance: the mean of p.
    error: mean square error to the truth; 0.36 for the mean of all right answers, 0.72 for a sample of them.
    """

    near: float
    size: float
    balance: float
    error: float


@torch.no_grad()
def answers(stage: LatentStage, steps: int) -> Answers:
    """What the stage's transformer restores in so many Euler steps."""
    draws = torch.Generator().manual_seed(99)
    at = stage.prepare(batch_of(10**6, 768, 0), draws)
    restored = stage.sample(stage.modules["dit"], at, steps, Guidance(), draws)
    above = (restored - at.lq).view(-1, POSITIONS, CHANNELS)
    p = (above * pattern()).sum((1, 2)) / pattern().square().sum()
    near = ((p.abs() - 1).abs() < 0.3).float().mean()
    error = (restored - at.hq).square().mean()
    return Answers(*(float(x) for x in (near, p.abs().mean(), p.mean(), error)))


def optimizer(lr: float, betas: tuple[float, float] = (0.9, 0.99), **more) -> OptimizerSettings:
    return OptimizerSettings(lr=lr, betas=betas, warmup=20, weight_decay=0.0, **more)


class Experiment:
    """The stages one after another; each leaves its averaged weights."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        recipe = make_recipe(folder, *NETWORK)
        draws = torch.Generator().manual_seed(seed)
        prompts = Prompts(*torch.randn(2, 2, WIDTH, generator=draws))
        self.common = {"recipe": recipe, "prompts": prompts, "with_vae": False}

    def train(self, name: str, make, steps: int) -> tuple[Path, LatentStage]:
        """The exported weights, and a stage that holds them."""
        torch.manual_seed(self.seed)
        loop = LoopSettings(
            seed=self.seed,
            steps=steps,
            precision="float32",
            ema_warmup=True,
            checkpoint=CheckpointSettings(NEVER, 1),
            log=LogSettings(NEVER, 0),
        )
        with process_group("cpu") as process:
            trainer = Trainer(make(**self.common), Pairs(self.seed), loop, self.folder / name, process)
            assert trainer.run(resume=False)
        weights = self.folder / name / "export/dit.safetensors"
        trainer.stage.modules["dit"].load_state_dict(load_file(weights))
        return weights, trainer.stage

    def diffusion(self, steps: int = 450) -> tuple[Path, LatentStage]:
        cosine = optimizer(2e-3, schedule="cosine", final=0.05, clip=1.0)
        settings = DiffusionStageSettings(optimizer=cosine, prompt_dropout=0.0, ema_decay=0.99)
        return self.train("diffusion", partial(DiffusionStage, settings=settings, weights=None), steps)

    def distilled(self, weights: Path, rounds: tuple[int, ...] = (4, 2, 1), steps: int = 130):
        """The last round's weights and, by the number of its steps, each round's stage."""
        cosine = optimizer(1e-3, schedule="cosine", final=0.05, clip=1.0)
        settings = DistillSettings(optimizer=cosine, rounds=rounds, noise_scale=0.0, ema_decay=0.98)
        stages = {}
        for n in rounds:
            make = partial(DistillStage, settings=settings, weights=weights, steps=n, guided=False)
            weights, stages[n] = self.train(f"distill_{n}", make, steps)
        return weights, stages

    def adversarial(self, name: str, weights: Path, judge: Path, losses: LossWeights, steps: int = 140) -> LatentStage:
        players = {"generator": optimizer(2e-4, (0.0, 0.99)), "discriminator": optimizer(1e-3, (0.0, 0.99))}
        settings = AdversarialSettings(**players, weights=losses, image_sigma=0.1, noise_scale=0.0, ema_decay=0.98)
        start = {"weights": weights, "discriminator_weights": judge}
        return self.train(name, partial(AdversarialStage, settings=settings, **start), steps)[1]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory) -> dict[str, Answers]:
    """One run of the recipe, about three minutes of one core."""
    return gather(tmp_path_factory.mktemp("evidence"), seed=0)


def gather(folder: Path, seed: int) -> dict[str, Answers]:
    experiment = Experiment(folder, seed)
    diffusion, stage = experiment.diffusion()
    rows = {f"diffusion in {n}": answers(stage, n) for n in (1, 2, 4, 8, 32)}
    distilled, stages = experiment.distilled(diffusion)
    rows |= {f"distilled to {n}": answers(stage, n) for n, stage in stages.items()}
    balanced = LossWeights(r1=10.0, r2=10.0)  # the papers' 1000 is for samples of millions of values; these have 256
    rows["adversarial"] = answers(experiment.adversarial("gan", distilled, diffusion, balanced), 1)
    rows["no gan"] = answers(
        experiment.adversarial("no_gan", distilled, diffusion, LossWeights(0.0, r1=0.0, r2=0.0)), 1
    )
    return rows


def test_one_step_of_diffusion_is_a_mean_and_many_are_samples(evidence):
    row = {n: evidence[f"diffusion in {n}"] for n in (1, 2, 4, 8, 32)}
    assert row[1].near < 0.6 < 0.9 < row[32].near
    assert row[1].near < row[2].near < row[8].near
    assert abs(row[32].balance) < 0.15  # both answers, half each
    assert row[1].error < row[32].error and row[32].error == pytest.approx(0.72, abs=0.08)


def test_distillation_brings_samples_into_one_step(evidence):
    few = evidence["distilled to 1"]
    assert evidence["distilled to 4"].near > evidence["diffusion in 4"].near - 0.05
    assert few.near > evidence["diffusion in 1"].near + 0.2
    assert abs(few.balance) < 0.15


def test_the_adversarial_stage_repairs_what_the_last_round_lost(evidence):
    assert evidence["adversarial"].near > evidence["distilled to 1"].near + 0.05
    assert evidence["adversarial"].size == pytest.approx(1, abs=0.15)
    assert abs(evidence["adversarial"].balance) < 0.4  # neither answer is lost; one alone would be 1


def test_without_its_discriminator_it_pulls_towards_the_mean(evidence):
    assert evidence["no gan"].size < evidence["distilled to 1"].size - 0.03
    assert evidence["no gan"].error < evidence["distilled to 1"].error - 0.02
    assert evidence["no gan"].near < evidence["adversarial"].near - 0.05
