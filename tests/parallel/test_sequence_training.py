"""Ranks that share clips in training: losses and gradients of every stage are those of one rank."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.config import create_object, load_config
from common.distributed import fsdp
from common.distributed.parallel import Parallel
from common.distributed.process import Process, process_group
from projects.video_diffusion_sr.training.packed import ShapeCache
from projects.video_diffusion_sr.training.stage import Stage
from projects.video_diffusion_sr.training.vae import ClipBatch
from tests.conftest import ROOT
from tests.parallel.ranks import run_ranks
from tests.parallel.stages import SETTINGS, build, check_same, save_weights, train
from tests.projects.training.tiny import MODEL, moments

pytestmark = pytest.mark.parallel

# Latents: a clip of a dozen windows, and a picture of one, of which all ranks but one have nothing.
SIZES = [(3, 16, 12), (1, 4, 6)]
KINDS = ("diffusion", "distill", "adversarial")  # stages on latents
# For the VAE's stage: a clip and pictures of six and four latent rows, and a picture of two, fewer than three ranks.
PIXELS = [(1, 3, 5, 24, 16), (2, 3, 1, 16, 12), (1, 3, 1, 8, 32)]
ODD = [(5, 6, 14), (2, 10, 2), (1, 2, 2)]  # odd numbers of tokens, columns of one, and a picture of a single token
TOLERANCE = 1e-5

Outcome = tuple[dict[str, float], dict[str, Tensor]]


def outcome(kind: str, weights: Path, process: Process, sp_size: int, sizes: list) -> dict[str, Outcome]:
    """Losses and gradients of every player, averaged over ranks as the loop does."""
    stage = build(kind, weights)
    parallel = Parallel(process, sp_size)
    if sp_size > 1:
        stage.share_clips(parallel)
    stage.set_device(process.device)
    for name, module in {**stage.modules, **stage.frozen}.items():
        fsdp.place(module, process.device, stage.weights.pop(name, None))
    draws = torch.Generator().manual_seed(1)
    clips = tuple(torch.rand(size, generator=draws) * 2 - 1 for size in PIXELS)
    batch = ClipBatch(["clip"], 0, clips) if kind == "vae" else moments(sizes)
    prepared = stage.prepare(batch, draws)
    return {player.name: gradients(stage, player, prepared) for player in stage.players}


def gradients(stage: Stage, player, prepared) -> Outcome:
    for name, module in stage.modules.items():
        module.requires_grad_(name in player.modules)
    losses = stage.losses(player.name, prepared, torch.Generator().manual_seed(2))
    losses["total"].backward()
    named = {f"{n}.{key}": p for n in player.modules for key, p in stage.modules[n].named_parameters()}
    fsdp.average_gradients(named.values())
    found = {key: p.grad for key, p in named.items() if p.grad is not None}
    for parameter in named.values():
        parameter.grad = None
    return {name: loss.item() for name, loss in losses.items()}, found


def encoded(weights: Path, process: Process, sp_size: int) -> Tensor:
    """Latents of clips of pixels, of which the last has fewer latent rows than there are ranks."""
    changes = [*MODEL, f"vae.checkpoint={weights / 'vae.safetensors'}", "vae.use_sample=False"]
    recipe = create_object(load_config(ROOT / "configs_tiny/main.yaml", changes))
    encoder = recipe.encoder(recipe.build_trained_vae())
    encoder.parallel = Parallel(process, sp_size)
    draws = torch.Generator().manual_seed(3)
    clips = [torch.rand(2, 3, *size, generator=draws) * 2 - 1 for size in [(5, 24, 16), (1, 4, 12)]]
    samples = [{"hq": hq, "lq": lq, "identity": "clip"} for hq, lq in clips]
    pairs = encoder(samples, ShapeCache("cpu"), torch.Generator())
    return torch.cat([pairs.hq, pairs.lq])


def check(expected: Path, weights: Path, ranks: int, sizes: list, process: Process) -> None:
    with torch.enable_grad():
        latents, stages = torch.load(expected)
        assert (encoded(weights, process, ranks) - latents).abs().max() <= TOLERANCE
        for kind, players in stages.items():
            got = outcome(kind, weights, process, ranks, sizes)
            for player, (losses, grads) in players.items():
                for name, value in losses.items():
                    assert got[player][0][name] == pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE), (kind, name)
                largest = max(float(g.abs().max()) for g in grads.values())
                assert grads.keys() == got[player][1].keys()
                for key, gradient in grads.items():
                    worst = float((got[player][1][key] - gradient).abs().max())
                    scale = float(gradient.abs().max()) + 0.1 * largest  # what is next to zero is rounding alone
                    assert worst <= TOLERANCE * scale, f"{kind}, {player}, {key}: {worst} of {scale}"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_weights(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize(
    ("ranks", "sizes"),
    [
        (2, SIZES[:1]),
        pytest.param(2, SIZES, marks=pytest.mark.slow),
        *(pytest.param(n, s, marks=pytest.mark.slow) for n in (3, 4) for s in (SIZES, SIZES[:1], SIZES[1:], ODD)),
    ],
)
def test_losses_and_gradients_are_those_of_one_rank(ranks, sizes, weights, tmp_path):
    with process_group("cpu") as alone:
        stages = {kind: outcome(kind, weights, alone, 1, sizes) for kind in (*KINDS, "vae")}
        torch.save((encoded(weights, alone, 1), stages), tmp_path / "expected")
    run_ranks(ranks, partial(check, tmp_path / "expected", weights, ranks, sizes), fresh=True)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["NO_SHARD", "FULL_SHARD", "_HYBRID_SHARD_ZERO2"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_two_groups_of_two_is_that_of_two_ranks(kind, strategy, weights, tmp_path):
    """The batch of each group, sharded weights, clipping, averages and checkpoints with groups of two."""
    run_ranks(2, partial(train, kind, weights, tmp_path / "apart", "NO_SHARD", SETTINGS), fresh=True)
    shared = replace(SETTINGS, sp_size=2)
    run_ranks(4, partial(train, kind, weights, tmp_path / "shared", strategy, replace(shared, steps=2)), fresh=True)
    run_ranks(2, partial(train, kind, weights, tmp_path / "shared", strategy, SETTINGS), fresh=True)  # goes on
    check_same(tmp_path / "apart", tmp_path / "shared")
