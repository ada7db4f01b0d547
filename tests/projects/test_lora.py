"""LoRA: nothing changes at first, merged weights answer as adapters do, and files come back as they were."""

import copy

import pytest
import torch

from common.checkpoint import save_safetensors
from common.config import create_object, load_config
from models.nadit.model import NaDiT
from projects.video_diffusion_sr.lora import (
    HEADER,
    LoraSettings,
    add_lora,
    factors_of,
    is_factor,
    load_lora,
    read_lora,
    with_base_names,
)
from tests.conftest import ROOT
from tests.projects.training.tiny import MODEL

SETTINGS = LoraSettings(rank=3, alpha=6.0)


def network(*overrides: str) -> NaDiT:
    torch.manual_seed(0)
    return create_object(
        load_config(ROOT / "configs_tiny/main.yaml", [*MODEL, "dit.model.num_layers=2", *overrides]).dit.model
    )


def answer(dit: NaDiT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    latents, text = torch.randn(16, 33, generator=generator), torch.randn(2, 24, generator=generator)
    with torch.no_grad():
        return dit(latents, text, [[1, 4, 4]], [[2]], 500.0).vid_sample


def save_lora(adapted: NaDiT, path) -> None:
    """As an export of a training writes it."""
    save_safetensors(factors_of(adapted.state_dict()), path, {HEADER: SETTINGS.header})


def trained(dit: NaDiT) -> NaDiT:
    adapted = copy.deepcopy(dit)
    add_lora(adapted, SETTINGS)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if is_factor(name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return adapted


def test_fresh_factors_change_nothing_and_only_they_are_trained() -> None:
    dit = network()
    adapted = copy.deepcopy(dit)
    add_lora(adapted, SETTINGS)
    assert torch.equal(answer(adapted), answer(dit))
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert names and all(is_factor(name) for name in names)
    layers = {name.split(".lora_")[0] for name in names}
    assert {name.split(".")[2] for name in layers} == {"attn", "mlp"}


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_merged_weights_answer_as_the_adapter_does(tmp_path, scale: float) -> None:
    dit, path = network(), tmp_path / "lora.safetensors"
    adapted = trained(dit)
    save_lora(adapted, path)
    for module in adapted.modules():
        if hasattr(module, "scaling") and isinstance(module.scaling, dict):
            module.scaling = {key: value * scale for key, value in module.scaling.items()}
    expected, plain = answer(adapted), answer(dit)
    load_lora(dit, path, scale)
    torch.testing.assert_close(answer(dit), expected, rtol=1e-4, atol=1e-5)
    assert (expected - plain).abs().max() > 1e-3


def test_files_come_back_as_they_were(tmp_path) -> None:
    adapted = trained(network())
    save_lora(adapted, tmp_path / "lora.safetensors")
    factors, settings = read_lora(tmp_path / "lora.safetensors")
    wanted = factors_of(adapted.state_dict())
    assert settings == SETTINGS and factors.keys() == wanted.keys()
    assert all(torch.equal(factors[name], wanted[name]) for name in wanted)


def test_a_plain_checkpoint_fits_under_the_adapters_names() -> None:
    dit = network()
    adapted = copy.deepcopy(dit)
    add_lora(adapted, SETTINGS)
    adapted.load_state_dict(with_base_names(dit.state_dict(), adapted))
    assert torch.equal(answer(adapted), answer(dit))


def test_another_model_and_another_file_are_refused(tmp_path) -> None:
    save_lora(trained(network("dit.model.num_layers=4")), tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="another model"):
        load_lora(network(), tmp_path / "lora.safetensors")
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no LoRA"):
        read_lora(tmp_path / "other.safetensors")


@pytest.mark.parametrize(("words", "settings"), [("rank=8", LoraSettings(8)), ("rank=4,alpha=8", LoraSettings(4, 8.0))])
def test_command_line(words: str, settings: LoraSettings) -> None:
    assert LoraSettings.parse(words) == settings


@pytest.mark.parametrize("words", ["rank=0", "rank=x", "size=3"])
def test_command_line_refused(words: str) -> None:
    with pytest.raises(ValueError):
        LoraSettings.parse(words)
