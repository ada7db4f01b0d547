"""Weights spread over ranks: the same numbers, a part of the memory."""

from contextlib import contextmanager

import pytest
import torch

from common.checkpoint import read_state_dict, save_safetensors
from common.distributed.parallel import Parallel
from common.distributed.process import Process
from common.distributed.sharded_inference import load_sharded, ranks_that_share
from tests.parallel.ranks import run_ranks
from tests.parallel.test_equality import CLIPS, DOORS, META, TOLERANCE, build_dits, dit_inputs

pytestmark = pytest.mark.parallel


def test_sharded_weights_give_the_same_numbers(tmp_path):
    dits = build_dits()
    with torch.inference_mode():
        expected = {name: model(**dit_inputs(model, "clip")).vid_sample for name, model in dits.items()}
    for name, model in dits.items():
        save_safetensors(model.state_dict(), tmp_path / f"{name}.safetensors")
    most = {name: most_bytes(model, ranks=2) for name, model in dits.items()}

    def work(process: Process) -> None:
        parallel = Parallel(process, sp_size=2)
        for name in dits:
            with torch.device("meta"):
                model = DOORS[name](**META[f"dit/{name}"]["config"]).eval()
            state = read_state_dict(tmp_path / f"{name}.safetensors")
            load_sharded(model, model.blocks, state, parallel.group, dtype=torch.float32)
            assert held_bytes(model) <= most[name]
            layout = model.layout(*CLIPS["clip"], sequence_group=parallel.sequence_group)
            with torch.inference_mode():
                for _ in range(2):  # gathered weights are given back and gathered again
                    got = model(**dit_inputs(dits[name], "clip"), layout=layout).vid_sample
                    assert (got - expected[name]).abs().max() <= TOLERANCE
                    assert held_bytes(model) <= most[name]
                    with pytest.raises(MemoryError), failing(model.blocks[1]):  # what was gathered goes, too
                        model(**dit_inputs(dits[name], "clip"), layout=layout)
                    assert held_bytes(model) <= most[name]

    run_ranks(4, work)


@contextmanager
def failing(block: torch.nn.Module):
    def fail(*_):
        raise MemoryError

    hook = block.attn.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def most_bytes(model: torch.nn.Module, ranks: int) -> int:
    """A part of every block, with 2 % for alignment, and all other weights."""
    blocks = sum(p.nbytes for block in model.blocks for p in block.parameters())
    return int(1.02 * blocks / ranks) + sum(p.nbytes for p in model.parameters()) - blocks


def held_bytes(model: torch.nn.Module) -> int:
    """Of all parameters' memory and the shards behind them."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    return sum(storages.values())


@pytest.mark.parametrize(
    ("local_world", "group", "expected"), [(8, 4, 4), (8, 8, 8), (8, 16, 8), (8, 12, 12), (1, 4, 4)]
)
def test_weights_stay_within_a_machine_where_they_can(local_world, group, expected):
    process = Process(0, 48, 0, torch.device("cpu"), "gloo", 0, 60.0, local_world=local_world)
    assert ranks_that_share(process, group) == expected
