"""The ComfyUI nodes against the documented contract, without ComfyUI: found, drawn, validated and run as it does."""

import importlib.util
import inspect
import sys
from types import ModuleType

import pytest
import torch

import seedvr
from tests.conftest import ROOT
from tests.seeded_weights import SMALL, seeded_weights

FOLDER = ROOT / "integrations" / "comfyui"


@pytest.fixture(scope="module")
def nodes() -> ModuleType:
    """The folder, imported as ComfyUI imports those in `custom_nodes`: by path, under a name of its own."""
    name = "custom_nodes.seedvr_nodes"
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Host:
    """ComfyUI's two modules, as far as nodes may use them."""

    def __init__(self, monkeypatch) -> None:
        self.bar, self.rooms, self.stop_at = [], 0, None
        comfy, utils, management = (ModuleType(f"comfy{name}") for name in ("", ".utils", ".model_management"))
        comfy.__path__ = []
        host = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                host.total = total

            def update_absolute(self, value: int, total: int | None = None, preview: object = None) -> None:
                host.bar.append(value)

        utils.ProgressBar = ProgressBar
        management.unload_all_models = lambda: setattr(self, "rooms", self.rooms + 1)
        management.soft_empty_cache = lambda: None
        management.throw_exception_if_processing_interrupted = self.interrupt
        for module in (comfy, utils, management):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    def interrupt(self) -> None:
        if self.stop_at is not None and len(self.bar) >= self.stop_at:
            raise InterruptedError("stopped by the user")


@pytest.fixture
def host(monkeypatch) -> Host:
    return Host(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> seedvr.Restorer:
    folder = seeded_weights(tmp_path_factory.mktemp("weights"))
    return seedvr.load("seedvr2_tiny", device="cpu", ckpt_dir=folder, overrides=SMALL)


def defaults(node: type) -> dict:
    """What ComfyUI passes when nobody touches a widget; sockets are left out."""
    kinds = node.INPUT_TYPES()
    widgets = {**kinds["required"], **kinds.get("optional", {})}
    return {name: spec[1]["default"] for name, spec in widgets.items() if len(spec) > 1 and "default" in spec[1]}


def images(frames: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(frames, 16, 24, channels, generator=torch.Generator().manual_seed(0))


def run(nodes: ModuleType, name: str, **inputs) -> tuple:
    """A node as ComfyUI executes it: keyword arguments, in inference mode."""
    node = nodes.NODE_CLASS_MAPPINGS[name]
    with torch.inference_mode():
        return getattr(node(), node.FUNCTION)(**{**defaults(node), **inputs})


def test_the_nodes_keep_the_contract(nodes):
    assert set(nodes.NODE_CLASS_MAPPINGS) == set(nodes.NODE_DISPLAY_NAME_MAPPINGS) == {"SeedVRLoad", "SeedVRRestore"}
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        assert isinstance(node.CATEGORY, str) and len(node.RETURN_NAMES) == len(node.RETURN_TYPES)
        assert all(isinstance(kind, str) for kind in node.RETURN_TYPES)
        kinds = node.INPUT_TYPES()
        assert set(kinds) <= {"required", "optional", "hidden"}
        parameters = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert list(parameters) == ["self", *kinds["required"], *kinds["optional"]]
        assert all(parameters[name].default is not inspect.Parameter.empty for name in kinds["optional"])
        for kind, *options in (*kinds["required"].values(), *kinds["optional"].values()):
            if isinstance(kind, list):
                assert options[0]["default"] in kind
            elif kind in ("INT", "FLOAT"):
                assert options[0]["min"] <= options[0]["default"] <= options[0]["max"]
            else:
                assert kind in ("STRING", "BOOLEAN", "IMAGE", "SEEDVR_MODEL")
    kinds = nodes.NODE_CLASS_MAPPINGS["SeedVRRestore"].INPUT_TYPES()["required"]
    assert kinds["model"][0] == nodes.NODE_CLASS_MAPPINGS["SeedVRLoad"].RETURN_TYPES[0]


def test_load_and_restore_without_comfyui(nodes, monkeypatch):
    seen = {}
    monkeypatch.setattr(seedvr, "load", lambda preset, **settings: seen.update(preset=preset, **settings) or "restorer")
    given = {"preset": "seedvr2_tiny", "vram": 12.0, "window": 0, "checkpoint": " a.safetensors "}
    assert run(nodes, "SeedVRLoad", **given) == ("restorer",)
    assert (seen["preset"], seen["vram"], seen["window"], seen["checkpoint"]) == (
        "seedvr2_tiny", 12.0, 0, "a.safetensors",
    )  # fmt: skip
    run(nodes, "SeedVRLoad")
    assert seen["vram"] is seen["window"] is seen["dtype"] is seen["ckpt_dir"] is seen["checkpoint"] is None


def test_a_clip_comes_back_as_an_image_of_the_asked_size(nodes, model, host):
    clip = images(5)
    (result,) = run(nodes, "SeedVRRestore", model=model, images=clip, size="exact size", width=48, height=32, seed=3)
    assert result.shape == (5, 32, 48, 3) and result.dtype == torch.float32 and not result.is_inference()
    assert 0 <= result.min() and result.max() <= 1
    assert torch.equal(result, model(clip, size=(48, 32), seed=3))
    assert host.total == 15 and host.bar[-1] == 15 and host.bar == sorted(host.bar)
    assert host.rooms == 0  # a CPU has no room to make


@pytest.mark.parametrize(
    ("size", "shape"), [("scale", (32, 48)), ("short side", (48, 72)), ("area", (32, 48)), ("exact size", (32, 64))]
)
def test_only_the_inputs_of_the_chosen_size_count(nodes, model, size, shape):
    given = {"scale": 2.0, "short_side": 48, "height": 32, "width": 64 if size == "exact size" else 48}
    (result,) = run(nodes, "SeedVRRestore", model=model, images=images(1), size=size, **given)
    assert result.shape == (1, *shape, 3)


def test_pictures_by_themselves_do_not_see_each_other(nodes, model, host):
    batch = images(2, channels=4)
    (both,) = run(nodes, "SeedVRRestore", model=model, images=batch, one_clip=False)
    (second,) = run(nodes, "SeedVRRestore", model=model, images=batch[1:], one_clip=False)
    assert torch.equal(both[1:], second) and host.bar[-1] == 3
    (grey,) = run(nodes, "SeedVRRestore", model=model, images=images(1, channels=1), keep_loaded=False)
    assert grey.shape == (1, 32, 48, 3) and model._engine._restorer is None
    with pytest.raises(seedvr.InputError, match="are no IMAGE"):
        run(nodes, "SeedVRRestore", model=model, images=images(1)[0])


def test_the_stop_button_ends_the_run_and_the_next_one_works(nodes, model, host):
    host.stop_at = 1
    with pytest.raises(InterruptedError, match="stopped by the user"):
        run(nodes, "SeedVRRestore", model=model, images=images(5))
    assert len(host.bar) == 1
    host.stop_at = None
    assert run(nodes, "SeedVRRestore", model=model, images=images(5))[0].shape == (5, 32, 48, 3)


def test_comfyui_is_asked_for_room_before_a_gpu_is_used(nodes, host, monkeypatch):
    monkeypatch.setattr(seedvr, "load", lambda preset, **settings: None)
    run(nodes, "SeedVRLoad", preset="seedvr2_tiny")
    assert host.rooms == 1
