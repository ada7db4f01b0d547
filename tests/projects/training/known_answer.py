"""Does each stage do what the papers say? On a problem whose answer is known, with the program's stages and loop.

A clip's ground truth is its condition plus or minus a fixed pattern P, each sign half the time: hq = lq + s P. What is
measured is the coefficient p of P in what a model restores. The mean of all right answers is p = 0 (a blurred picture);
a sample of them has p = 1 or p = -1. One step of a diffusion model gives the mean, many steps a sample; distillation
must bring samples into fewer steps, and the adversarial stage repairs what that loses. L1 and features alone pull back
towards the mean.

    python -m tests.projects.training.known_answer --output docs/recipe_evidence/known_answer.csv --seeds 0 1

trains every variant that docs/recipe_evidence.md compares, about a quarter of an hour of one core for each seed.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from common.diffusion import Guidance
from common.distributed.process import process_group
from projects.video_diffusion_sr.training.adversarial import (
    AdversarialSettings,
    AdversarialStage,
    DiscriminatorStart,
    LossWeights,
)
from projects.video_diffusion_sr.training.conditioning import TrainingPrompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.distill import DistillRound, DistillSettings, DistillStage
from projects.video_diffusion_sr.training.latent_stage import LatentStage
from projects.video_diffusion_sr.training.latents import PosteriorBatch
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.settings import (
    CheckpointSettings,
    LogSettings,
    LoopSettings,
    OptimizerSettings,
)
from projects.video_diffusion_sr.training.stage import BatchSource
from tests.projects.training.tiny import make_recipe

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


def batch_of(number: int, count: int, seed: int) -> PosteriorBatch:
    """Conditions at random, ground truths one pattern above or below them."""
    draws = torch.Generator().manual_seed(1_000_003 * number + seed)
    lq = 0.5 * torch.randn(count, POSITIONS, CHANNELS, generator=draws)
    sign = (torch.rand(count, 1, 1, generator=draws) < 0.5).float() * 2 - 1
    hq, lq = (lq + sign * pattern()).flatten(0, 1), lq.flatten(0, 1)
    none = torch.zeros_like(lq)
    return PosteriorBatch(hq, none, lq, none, (SIZE,) * count, tuple(f"sample {i}" for i in range(count)))


def pattern() -> Tensor:
    """P, [positions, channels]."""
    return 0.6 * torch.randn(POSITIONS, CHANNELS, generator=torch.Generator().manual_seed(7)).sign()


class Pairs(BatchSource):
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
    off: root mean square of what is neither condition nor pattern; 0 in every right answer.
    """

    near: float
    size: float
    balance: float
    error: float
    off: float


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
    off = (above - p[:, None, None] * pattern()).square().mean().sqrt()
    return Answers(*(float(x) for x in (near, p.abs().mean(), p.mean(), error, off)))


def optimizer(lr: float, betas: tuple[float, float] = (0.9, 0.99), **more) -> OptimizerSettings:
    return OptimizerSettings(lr=lr, betas=betas, warmup=20, weight_decay=0.0, **more)


@dataclass(frozen=True)
class Lengths:
    """Steps of the diffusion stage, of each round of distillation, and of each adversarial run; student steps of the
    rounds; steps with which the diffusion model is asked."""

    diffusion: int = 450
    distill: int = 130
    adversarial: int = 140
    rounds: tuple[int, ...] = (4, 2, 1)
    sweep: tuple[int, ...] = (1, 2, 4, 8, 32)


LONG = Lengths(800, 220, 350, (8, 4, 2, 1), (1, 2, 4, 8, 16, 32, 64))
SCALED = 10.0  # penalties: the papers' 1000 is for samples of millions of values; these have 256
PLAIN_REGRESSION = ["diffusion.timesteps.training.loc=8.0", "diffusion.timesteps.training.scale=0.5"]  # next to T


class Experiment:
    """The stages one after another; each leaves its averaged weights."""

    def __init__(self, folder: Path, seed: int, lengths: Lengths) -> None:
        self.folder, self.seed, self.lengths = folder, seed, lengths
        draws = torch.Generator().manual_seed(seed)
        prompts = TrainingPrompts(*torch.randn(2, 2, WIDTH, generator=draws))
        self.common = {"recipe": make_recipe(folder, *NETWORK), "prompts": prompts, "with_vae": False}

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

    def diffusion(self) -> tuple[Path, LatentStage]:
        cosine = optimizer(2e-3, schedule="cosine", final=0.05, clip=1.0)
        settings = DiffusionStageSettings(optimizer=cosine, prompt_dropout=0.0, ema_decay=0.99)
        make = partial(DiffusionStage, settings=settings, weights=None)
        return self.train("diffusion", make, self.lengths.diffusion)

    def regression(self, weights: Path) -> LatentStage:
        """Squared error of one step alone, as long as an adversarial run."""
        settings = DiffusionStageSettings(optimizer=optimizer(2e-4), prompt_dropout=0.0, ema_decay=0.98)
        recipe = make_recipe(self.folder, *NETWORK, *PLAIN_REGRESSION)

        def make(**common) -> DiffusionStage:
            return DiffusionStage(**common | {"recipe": recipe}, settings=settings, weights=weights)

        return self.train("regression", make, self.lengths.adversarial)[1]

    def distilled(self, weights: Path) -> tuple[Path, dict[int, LatentStage]]:
        """The last round's weights and, by the number of its steps, each round's stage."""
        cosine = optimizer(1e-3, schedule="cosine", final=0.05, clip=1.0)
        rounds = self.lengths.rounds
        settings = DistillSettings(optimizer=cosine, rounds=rounds, noise_scale=0.0, ema_decay=0.98)
        stages = {}
        for n in rounds:
            make = partial(DistillStage, settings=settings, weights=weights, this_round=DistillRound(n, guided=False))
            weights, stages[n] = self.train(f"distill_{n}", make, self.lengths.distill)
        return weights, stages

    def adversarial(
        self, name: str, weights: Path, discriminator: Path, losses: LossWeights, loss: str = "rpgan"
    ) -> LatentStage:
        players = {"generator": optimizer(2e-4, (0.0, 0.99)), "discriminator": optimizer(1e-3, (0.0, 0.99))}
        settings = AdversarialSettings(
            **players, weights=losses, loss=loss, image_sigma=0.1, noise_scale=0.0, ema_decay=0.98
        )
        start = {"weights": weights, "discriminator": DiscriminatorStart(discriminator)}
        make = partial(AdversarialStage, settings=settings, **start)
        return self.train(name, make, self.lengths.adversarial)[1]


def variants(distilled: Path, diffusion: Path) -> Iterator[tuple[str, dict]]:
    """The adversarial runs that the page compares, by name: the columns of SeedVR2's table 3, then controls."""
    full = LossWeights(r1=SCALED, r2=SCALED)
    bare = replace(full, l1=0.0, features=0.0)
    start = {"weights": distilled, "discriminator": diffusion}
    yield "NS + aR1", {**start, "losses": replace(bare, r2=0.0), "loss": "ns"}
    yield "RpGAN + aR1 + aR2", {**start, "losses": bare}
    yield "and L1", {**start, "losses": replace(bare, l1=0.1)}
    yield "the full loss", {**start, "losses": full}
    yield "the full loss, not distilled before", {**start, "weights": diffusion, "losses": full}
    yield "L1 and features at 1", {**start, "losses": replace(full, l1=1.0, features=1.0)}
    yield "no GAN term", {**start, "losses": LossWeights(0.0, r1=0.0, r2=0.0)}
    for penalty in (1000.0, 100.0, 1.0):
        yield f"penalties {penalty:g}", {**start, "losses": LossWeights(r1=penalty, r2=penalty)}


ASSERTED = ("the full loss", "no GAN term")  # the runs that the test asserts something about


def compare(
    folder: Path, seed: int, lengths: Lengths, only: tuple[str, ...] | None = None
) -> Iterator[tuple[str, Answers]]:
    """Every row of the page, as soon as it is there; of the adversarial runs `only` these."""
    experiment = Experiment(folder, seed, lengths)
    diffusion, stage = experiment.diffusion()
    for n in lengths.sweep:
        yield f"diffusion, steps: {n}", answers(stage, n)
    distilled, stages = experiment.distilled(diffusion)
    for n, stage in stages.items():
        yield f"distilled, steps: {n}", answers(stage, n)
    for number, (name, settings) in enumerate(variants(distilled, diffusion)):
        if only is None or name in only:
            yield name, answers(experiment.adversarial(f"gan_{number}", **settings), 1)
    if only is None:
        yield "squared error alone", answers(experiment.regression(distilled), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--short", action="store_true", help="the shorter stages and the rows of the test alone")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    stages, chosen = ("short", (Lengths(), ASSERTED)) if args.short else ("long", (LONG,))
    with args.output.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["stages", "seed", "row", *(field.name for field in fields(Answers))])
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                for row, values in compare(Path(folder), seed, *chosen):
                    table.writerow([stages, seed, row, *(f"{value:.4f}" for value in astuple(values))])
                    file.flush()


if __name__ == "__main__":
    main()
