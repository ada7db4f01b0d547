"""The transformer against its recorded numbers, its checkpoint names, and its laws."""

import json
from collections import Counter

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.config import load_config
from models.dit.nadit import NaDiT as NaDiT7B
from models.dit_v2.nadit import NaDiT as NaDiT3B
from models.nadit import modulation, recompute
from models.nadit.recompute import Recompute
from models.nadit.windows import cut_windows
from tests.conftest import GOLDEN, ROOT, seed_weights, seeded

META = json.loads((GOLDEN / "meta.json").read_text())
DOORS = {"v1_small": NaDiT7B, "v2_small": NaDiT3B}
TOLERANCE = 6e-6


@pytest.fixture(scope="module", params=DOORS)
def small(request) -> tuple[str, torch.nn.Module]:
    name = request.param
    return name, seed_weights(DOORS[name](**META[f"dit/{name}"]["config"])).eval()


def case_inputs(name: str, case: str) -> dict:
    meta = META[f"dit/{name}/{case}"]
    text_dim = META[f"dit/{name}"]["config"]["txt_in_dim"]
    shapes, lengths = meta["video_shapes"], meta["text_lengths"]
    vid = [seeded(f"open/{name}/{case}/vid{i}", (*shape, 33)).flatten(0, 2) for i, shape in enumerate(shapes)]
    txt = [seeded(f"open/{name}/{case}/txt{i}", (n, text_dim)) for i, n in enumerate(lengths)]
    return {
        "vid": torch.cat(vid),
        "txt": torch.cat(txt),
        "vid_shape": torch.tensor(shapes),
        "txt_shape": torch.tensor(lengths)[:, None],
        "timestep": torch.tensor(meta["timesteps"]),
    }


@pytest.mark.parametrize("case", ["image", "clip", "batch", "wide"])
@torch.no_grad()
def test_recorded_numbers(small, case):
    name, model = small
    expected = load_file(GOLDEN / f"dit_{name}.safetensors")[f"{case}/out"]
    assert (model(**case_inputs(name, case)).vid_sample - expected).abs().max() <= TOLERANCE


@torch.no_grad()
def test_packing_does_not_change_a_sample(small):
    name, model = small
    packed = case_inputs(name, "batch")
    together = model(**packed).vid_sample
    rows = packed["vid_shape"].prod(1).tolist()
    texts = packed["txt_shape"].flatten().tolist()
    samples = zip(packed["vid"].split(rows), packed["txt"].split(texts), together.split(rows), strict=True)
    for i, (vid, txt, expected) in enumerate(samples):
        alone = model(vid, txt, packed["vid_shape"][i : i + 1], packed["txt_shape"][i : i + 1], packed["timestep"][i])
        assert (alone.vid_sample - expected).abs().max() <= TOLERANCE  # other matrix sizes round differently


@torch.no_grad()
def test_a_layout_built_once_gives_the_same_numbers(small):
    name, model = small
    inputs = case_inputs(name, "batch")
    layout = model.layout(inputs["vid_shape"].tolist(), inputs["txt_shape"].flatten().tolist())
    assert torch.equal(model(**inputs).vid_sample, model(**inputs, layout=layout).vid_sample)


KEPT_BY_NAME = {"attention": recompute.ATTENTION, "products": recompute.PRODUCTS}
WAYS = [Recompute(), Recompute(1.0), Recompute(0.5), Recompute(1.0, "attention"), Recompute(1.0, "products")]


class Watch(TorchDispatchMode):
    """Bytes of all results that somebody still holds, and how often products and attention were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.calls = {}, Counter()

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        result = operator(*arguments, **(keywords or {}))
        self.calls.update(kind for kind in ("products", "attention") if operator._schema.name in KEPT_BY_NAME[kind])
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    @property
    def bytes(self) -> int:
        return sum(size for storage, size in self.made.values() if not storage.expired())


def gradients_and_costs(model, inputs, way):
    """Gradients; bytes kept after the forward pass; products, and attention's passes forward, in both passes."""
    model.set_gradient_checkpointing(way)
    model.zero_grad()
    layout = model.layout(inputs["vid_shape"].tolist(), inputs["txt_shape"].flatten().tolist())
    watch = Watch()
    with watch:
        loss = model(**inputs, layout=layout).vid_sample.square().mean()
    size = watch.bytes
    with watch:
        loss.backward()
    found = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.set_gradient_checkpointing(Recompute())
    model.zero_grad()
    return found, size, watch.calls


def test_what_is_computed_again_changes_no_gradient(small):
    """Only memory and work: each way of keeping more holds more and computes less."""
    name, model = small
    plain, whole, half, attention, products = (
        gradients_and_costs(model, case_inputs(name, "image"), way) for way in WAYS
    )
    for others, _, _ in (whole, half, attention, products):
        assert plain[0].keys() == others.keys()
        assert all(torch.equal(plain[0][k], others[k]) for k in others)
    assert whole[1] < attention[1] < products[1] < plain[1] and whole[1] < half[1] < plain[1]
    times = [[way[2][kind] for kind in ("attention", "products")] for way in (plain, attention, products, whole)]
    assert times[0][0] == times[1][0] == times[2][0] == times[3][0] / 2
    assert times[0][1] == times[2][1] < times[1][1] == times[3][1]
    assert [len(way.blocks(4)) for way in WAYS] == [0, 4, 2, 4, 4]


@pytest.mark.parametrize("wrong", [{"share": 2}, {"keeps": "all"}])
def test_other_checkpointing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"gradient_checkpoint(_keeps='all'| is a share)"):
        Recompute(**wrong)


@pytest.mark.parametrize("small", ["v2_small", pytest.param("v1_small", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.slow  # it compiles
def test_a_training_block_is_one_graph(small, autocast):
    """torch.compile meets nothing in a block that breaks its graph, and what it traced gives the eager gradients."""
    name, model = small
    given = case_inputs(name, "batch")
    layout = model.layout(given["vid_shape"].tolist(), given["txt_shape"].flatten().tolist())

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**given, layout=layout).vid_sample.float().square().mean()
        loss.backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]

    expected = gradients()
    torch._dynamo.reset()
    try:
        for block in (model.blocks[0], model.blocks[-1]):
            block.compile(dynamic=False, fullgraph=True, backend="aot_eager")
        compiled = gradients()
    finally:
        for block in model.blocks:
            block._compiled_call_impl = None
        model.zero_grad()
        torch._dynamo.reset()
    for one, two in zip(compiled, expected, strict=True):
        tolerance = 0.02 * two.abs().max().item() if autocast else 1e-6
        torch.testing.assert_close(one, two, atol=tolerance, rtol=1e-4)


@torch.no_grad()
def test_taps_are_the_streams_between_blocks(small):
    name, model = small
    inputs = case_inputs(name, "image")
    plain = model(**inputs)
    tapped = model(**inputs, taps=(0, 2))
    assert torch.equal(plain.vid_sample, tapped.vid_sample) and plain.features == ()
    assert [feature.shape for feature in tapped.features] == [(24, 64), (24, 64)]


def test_the_tail_reads_the_attention_slot():
    """The quirk of the released 3B: the tail's shift and scale come from the attention's part of the embedding."""
    tail = modulation.TailModulation(4)
    of_attention, of_mlp = (modulation.Modulation(*torch.randn(3, 1, 4)) for _ in range(2))
    shift, scale = tail((of_attention, of_mlp))
    assert torch.equal(shift, of_attention.shift + tail.out_shift)
    assert torch.equal(scale, of_attention.scale + tail.out_scale)


@pytest.mark.parametrize("key", json.loads((GOLDEN / "windows.json").read_text()))
def test_windows(key):
    method, grid, counts = key.split("|")
    expected = json.loads((GOLDEN / "windows.json").read_text())[key]
    grid, counts = (tuple(int(n) for n in text.split(",")) for text in (grid, counts))
    windows = cut_windows(grid, counts, shifted="pswin" in method)
    assert [list(window) for window in windows] == expected
    covered = torch.zeros(grid, dtype=torch.int)
    for t0, t1, h0, h1, w0, w1 in windows:
        covered[t0:t1, h0:h1, w0:w1] += 1
    assert (covered == 1).all(), "every token belongs to exactly one window"


def test_rope_frequencies_stay_float32():
    model = NaDiT3B(**META["dit/v2_small"]["config"]).to(torch.bfloat16)
    freqs = model.blocks[0].attn.rope.rope.freqs
    assert freqs.dtype == torch.float32
    assert torch.allclose(freqs, 10000 ** (-2 * torch.arange(len(freqs)) / 10), rtol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("msa_type", "window"),
        ("ada", "full"),
        ("norm", "layer"),
        ("txt_dim", 32),
        ("mlp_type", "relu"),
        ("rope_type", "x"),
    ],
)
def test_values_that_would_be_ignored_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        NaDiT3B(**{**META["dit/v2_small"]["config"], key: value})


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_names_and_shapes_of_the_released_checkpoints(size):
    config = load_model_config(size)
    with torch.device("meta"):
        model = {"3b": NaDiT3B, "7b": NaDiT7B}[size](**config)
    manifest = json.loads((ROOT / "tests" / "manifests" / f"nadit_{size}.json").read_text())
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == manifest


def load_model_config(size: str) -> dict:
    config = OmegaConf.to_container(load_config(ROOT / f"configs_{size}" / "main.yaml").dit.model, resolve=True)
    return {key: value for key, value in config.items() if not key.startswith("__")}


def test_tensors_of_an_output_are_found_by_whoever_walks_it(small):
    """FSDP hangs its hooks on them; in older torch it finds them in tuples alone."""
    name, dit = small
    out = dit(**case_inputs(name, next(key.split("/")[2] for key in META if key.startswith(f"dit/{name}/"))), taps=[0])
    assert [leaf.shape for leaf in tree_leaves(out)] == [out.vid_sample.shape, out.features[0].shape]
