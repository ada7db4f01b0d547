"""Training begins from weights in the layouts that inference reads, with the same numbers."""

import pytest
import torch

from common.checkpoint import save_safetensors
from common.distributed import fsdp
from projects.video_diffusion_sr.build import load_network
from projects.video_diffusion_sr.lora import LoraSettings
from tests.conftest import seed_weights
from tests.projects.training.tiny import make_recipe


def in_8_bits(state):
    """Every matrix of the blocks as 8-bit floats with a scale for each row."""
    stored = dict(state)
    for name, weight in state.items():
        if name.startswith("blocks.") and name.endswith(".weight") and weight.ndim == 2:
            scale = weight.abs().amax(dim=1, keepdim=True) / 448
            stored[name] = (weight / scale).to(torch.float8_e4m3fn)
            stored[name.removesuffix("weight") + "scale_weight"] = scale
    return stored


def below_a_prefix(state):
    return {f"model.diffusion_model.{name}": weight for name, weight in state.items()}


LAYOUTS = {
    "half, below a prefix": lambda state: below_a_prefix({name: weight.half() for name, weight in state.items()}),
    "8 bits with scales": in_8_bits,
    "without what is computed": lambda state: below_a_prefix(
        {name: weight for name, weight in state.items() if not name.endswith("rope.freqs")}
    ),
}
OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_transformer_begins_with_what_inference_loads(recipe, tmp_path, layout):
    path = tmp_path / "people_have.safetensors"
    save_safetensors(LAYOUTS[layout](seed_weights(recipe.build_dit()[0]).state_dict()), path)
    (trained, state), (inferred, _) = recipe.build_dit(path), recipe.build_dit(path)
    fsdp.place(trained, "cpu", state)
    load_network(inferred, path, torch.device("cpu"), torch.float32)
    expected = inferred.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in trained.state_dict().items())
    adapted, base = recipe.build_dit(path, LoraSettings(rank=2))
    assert {n for n in adapted.state_dict() if "lora" not in n} <= set(base)


def test_a_vae_begins_with_names_that_older_files_have(recipe, tmp_path):
    vae = seed_weights(recipe.build_untrained_vae())
    older = {}
    for name, weight in vae.state_dict().items():
        for new, old in OLDER.items():
            name = name.replace(new, old)
        older[name] = weight
    assert set(older) != set(vae.state_dict())
    save_safetensors({name: w.half() for name, w in older.items()}, tmp_path / "vae.safetensors")
    again = recipe.build_untrained_vae(tmp_path / "vae.safetensors").state_dict()
    assert all(torch.equal(again[name], weight.half().float()) for name, weight in vae.state_dict().items())
