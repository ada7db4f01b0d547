"""Small stages on seeded weights, and their runs, for tests that compare numbers of ranks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.checkpoint import save_safetensors
from common.config import create_object, load_config
from common.distributed.process import Process
from projects.video_diffusion_sr.training.adversarial import AdversarialSettings, AdversarialStage, DiscriminatorStart
from projects.video_diffusion_sr.training.conditioning import TrainingPrompts
from projects.video_diffusion_sr.training.diffusion import DiffusionStage, DiffusionStageSettings
from projects.video_diffusion_sr.training.distill import DistillRound, DistillSettings, DistillStage
from projects.video_diffusion_sr.training.loop import Trainer
from projects.video_diffusion_sr.training.settings import (
    CheckpointSettings,
    LogSettings,
    LoopSettings,
    OptimizerSettings,
)
from projects.video_diffusion_sr.training.stage import BatchSource, Stage
from projects.video_diffusion_sr.training.vae import VaeGan, VaeSettings, VaeStage, VaeWeights
from tests.conftest import ROOT, seed_weights
from tests.projects.training.tiny import MODEL, make_recipe, moments

SETTINGS = LoopSettings(
    steps=3, precision="float32", checkpoint=CheckpointSettings(2, 2), log=LogSettings(1, 0), seed=4
)
SIZES = [(1, 4, 6), (3, 8, 6)]
FAST = OptimizerSettings(lr=1e-3, betas=(0.0, 0.99))


class Same(BatchSource):
    """The same batches on whoever asks."""

    def batches(self, start: int):
        while True:
            yield moments(SIZES, seed=start)
            start += 1


class SameDraws(Trainer):
    """Draws that do not depend on the rank: the mean over ranks is then what one rank computes."""

    def __init__(self, *arguments, **keywords) -> None:
        super().__init__(*arguments, **keywords)
        self.updates.process = replace(self.updates.process, rank=0)


def save_weights(folder: Path) -> Path:
    """Seeded weights of a transformer (`dit`) and of the one that a discriminator starts from (`discriminator`)."""
    recipe = make_recipe(folder)
    for name in ("dit", "discriminator"):
        dit = seed_weights(recipe.build_dit()[0])
        if name == "discriminator":
            dit.vid_in.proj.weight.data.mul_(1.1)
        save_safetensors(dit.state_dict(), folder / f"{name}.safetensors")
    return folder


def build(kind: str, folder: Path) -> Stage:
    """A stage on seeded weights, with gradient checkpointing, built on the meta device as large ones are."""
    small_windows = "dit.model.window=[[10,15,15],[10,15,15],[10,15,15],[10,15,15]]"  # so that small clips have several
    changes = [*MODEL, "dit.gradient_checkpoint=True", "vae.use_sample=False", small_windows]
    recipe = create_object(load_config(ROOT / "configs_tiny/main.yaml", changes))
    generator = torch.Generator().manual_seed(0)
    prompts = TrainingPrompts(*(torch.randn(n, 24, generator=generator) for n in (3, 5)))
    common = {"recipe": recipe, "prompts": prompts, "with_vae": False, "weights": folder / "dit.safetensors"}
    torch.manual_seed(0)
    if kind == "vae":
        settings = VaeSettings(VaeWeights(perceptual=0.0), VaeGan(start=0, channels=(8, 8), optimizer=FAST), FAST)
        return VaeStage(recipe.build_untrained_vae(folder / "vae.safetensors"), settings, 0.9)
    if kind == "diffusion":
        return DiffusionStage(settings=DiffusionStageSettings(optimizer=FAST), **common)
    if kind == "distill":
        settings = DistillSettings(optimizer=FAST, guidance=1.5)
        return DistillStage(settings=settings, this_round=DistillRound(2, guided=True), **common)
    # Noise that changes answers by more than rounding, as a penalty is the square of a difference.
    noise = {"sigma": 1.0, "image_sigma": 1.0, "penalty_values": 1e6}
    settings = AdversarialSettings(generator=FAST, discriminator=FAST, **noise)
    return AdversarialStage(
        settings=settings, discriminator=DiscriminatorStart(folder / "discriminator.safetensors"), **common
    )


def train(
    kind: str,
    weights: Path,
    folder: Path,
    strategy: str,
    settings: LoopSettings,
    process: Process,
    trainer: type[Trainer] = Trainer,
) -> None:
    """A run to its end, or on from its newest checkpoint."""
    with torch.enable_grad():
        trainer(build(kind, weights), Same(), settings, folder, process, strategy).run()


def losses(folder: Path) -> list[dict]:
    """The losses of every step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "/" in key} for line in lines]


def without_constant(line: dict) -> dict:
    """`real` less `fake` in place of both."""
    line = dict(line)
    if "discriminator/real" in line:
        line["difference"] = line.pop("discriminator/real") - line.pop("discriminator/fake")
    return line


def check_same(one: Path, other: Path) -> None:
    """The same losses and norms at every step, and the same weights at the end.

    Of the discriminator's answers only differences: no loss depends on a constant added to all of them, so the gradient
    of its last bias is rounding, which Adam makes as large as any other.
    """
    a, b = ([without_constant(line) for line in losses(folder)] for folder in (one, other))
    assert len(a) == len(b) == SETTINGS.steps
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys() and len(x) >= 3
        for key in x:
            assert y[key] == pytest.approx(x[key], rel=2e-3, abs=1e-6), key
    whole, sharded = (load_file(folder / "export/dit.safetensors") for folder in (one, other))
    assert all((whole[key] - sharded[key]).abs().max() < 2e-4 for key in whole)
