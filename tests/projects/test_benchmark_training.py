"""The program that times training steps: it takes the loop's steps, and the state that it predicts is the state."""

import json
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf

from common.distributed.process import Process, process_group
from models.nadit.recompute import Recompute
from projects.benchmark_training import cost_of, latent_sizes, main, make_step, make_trainer, measure, parse, predict
from projects.video_diffusion_sr.training.cost import kept_bytes
from projects.video_diffusion_sr.training.overrides import load_run
from tests.models.test_nadit import DOORS, META, Watch
from tests.parallel.ranks import run_ranks
from tests.projects.training.tiny import MODEL

NETWORK = [change for change in MODEL if change.startswith("dit.")]
COMMON = [*NETWORK, "--config", "configs_tiny/main.yaml", "--device", "cpu", "--steps", "1"]


def test_a_step_of_bfloat16_is_timed(tmp_path, capsys):
    arguments = ["diffusion", *COMMON, "--clip", "1x32x32", "5x32x32", "--clip", "1x32x32", "--json", tmp_path / "it"]
    assert main(list(map(str, arguments))) == 0
    first, second = json.loads((tmp_path / "it").read_text())
    assert first["measured"]["flops"] > second["measured"]["flops"] > 0  # the second batch lacks a sample of the first
    assert "1x32x32 5x32x32: " in (out := capsys.readouterr().out) and "GB predicted" in out


@pytest.mark.parametrize(
    ("stage", "changes"),
    [("distill", []), ("adversarial", []), ("diffusion", ["train.diffusion.optimizer.name=rmsprop"])],
)
def test_the_predicted_state_is_what_a_checkpoint_holds_and_a_teacher(stage, changes):
    args = parse([stage, *COMMON, "train.precision=float32", *changes, "--clip", "1x32x32"])
    model, train = load_run(args.config, f"configs_train/{stage}.yaml", args.overrides)
    with process_group("cpu") as process:
        trainer = make_trainer(args, model, OmegaConf.to_container(train), process)
        sizes = latent_sizes(args.clip[0], trainer.stage.recipe)
        make_step(trainer, sizes)()
        kept = sum(x.nbytes for x in trainer.checkpoints.state.tensors().values())
        teachers = [p.nbytes / 2 for network in trainer.stage.frozen.values() for p in network.parameters()]
        assert predict(cost_of(stage, trainer), trainer, sizes)["state"] == pytest.approx(
            kept + sum(teachers), rel=0.01
        )


@pytest.mark.parametrize("clip", ["5x32", "4x32x32", "5x32x36", "0x32x32"])
def test_what_is_no_clip_is_refused(clip):
    with pytest.raises(ValueError, match="frames"):
        main(["diffusion", *COMMON, "--clip", clip])


def one_step(stage: str, strategy: str, sp_size: int, keeps: str, process: Process) -> None:
    """A warm-up step and a timed one, in bfloat16 and with gradient checkpointing, as on GPUs."""
    changes = [*NETWORK, "dit.gradient_checkpoint=True", f"dit.gradient_checkpoint_keeps={keeps}"]
    changes += [f"train.sp_size={sp_size}", f"dit.fsdp.sharding_strategy={strategy}"]
    args = parse([stage, *changes, "--config", "configs_tiny/main.yaml", "--clip", "1x32x32", "5x32x32"])
    model, train = load_run(args.config, f"configs_train/{stage}.yaml", args.overrides)
    with torch.enable_grad():
        trainer = make_trainer(args, model, OmegaConf.to_container(train), process)
        assert measure(trainer, make_step(trainer, latent_sizes(args.clip[0], trainer.stage.recipe)), 1, 1)["flops"] > 0


@pytest.mark.parallel
@pytest.mark.slow
@pytest.mark.parametrize("sp_size", [1, 2])
@pytest.mark.parametrize("strategy", ["FULL_SHARD", "_HYBRID_SHARD_ZERO2"])
@pytest.mark.parametrize("stage", ["distill", "adversarial"])
def test_two_ranks_take_steps_in_bfloat16(stage, strategy, sp_size):
    keeps = "nothing" if sp_size == 1 else "products"
    run_ranks(2, partial(one_step, stage, strategy, sp_size, keeps), fresh=True)


@pytest.mark.parametrize("keeps", ["attention", "products"])
@pytest.mark.parametrize("door", ["v1_small", "v2_small"])
def test_what_stays_of_a_block_is_as_predicted(door, keeps):
    """In float32, twice the bytes; one token of text, so that rows of windows are about tokens."""
    model = DOORS[door](**META[f"dit/{door}"]["config"])
    size, config = (3, 16, 16), model.config
    inputs = torch.randn(3 * 16 * 16, 33), torch.randn(1, config.txt_in_dim), [size], [[1]], 500.0
    held = {}
    for way in ("nothing", keeps):
        model.set_gradient_checkpointing(Recompute(1.0, way))
        layout = model.layout([size], [1])
        with Watch() as watch:
            result = model(*inputs, layout=layout)
        held[way] = watch.bytes
        del result
    tokens = 3 * 8 * 8 + 1
    logarithms = 4 * config.heads / config.dim  # float32 in both
    predicted = 2 * (kept_bytes(config, keeps) - logarithms) + logarithms
    assert held[keeps] - held["nothing"] == pytest.approx(predicted * config.num_layers * tokens * config.dim, rel=0.1)
