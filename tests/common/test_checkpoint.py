"""Checkpoints: strict names, memory-mapped files, nothing unpickled that could run, messages that help."""

import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from common.checkpoint import load_into, read_state_dict, save_safetensors


class Rope(nn.Module):
    """A layer whose frequencies are computed, as the transformers' are."""

    def __init__(self) -> None:
        super().__init__()
        self.rope = nn.Module()
        self.rope.register_buffer("freqs", torch.arange(3, dtype=torch.float32) / 3)


class Small(nn.Module):
    """Two layers and a computed buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.rope = nn.Linear(3, 4), nn.Linear(4, 2, bias=False), Rope()

    def reset_buffers(self, device=None) -> None:
        self.rope.rope.freqs = (torch.arange(3, dtype=torch.float32) / 3).to(device or "cpu")


def on_meta(kind=Small):
    with torch.device("meta"):
        return kind()


@pytest.fixture
def state():
    torch.manual_seed(0)
    return {k: v.clone() for k, v in Small().state_dict().items()}


def write(state, path: Path) -> Path:
    torch.save(state, path) if path.suffix == ".pth" else save_safetensors(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "stored", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_weights_arrive_in_the_wanted_dtype_whatever_the_file_stores(tmp_path, state, suffix, stored, wanted):
    state = {name: value.to(stored) for name, value in state.items()}
    module = on_meta()
    load_into(module, read_state_dict(write(state, tmp_path / f"w{suffix}")), dtype=wanted)
    for name, value in module.named_parameters():
        assert value.dtype == wanted and isinstance(value, nn.Parameter) and value.requires_grad
        assert torch.equal(value, state[name].to(wanted)), name


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_rope_frequencies_are_recomputed_in_float32_not_taken_from_the_file(state, stored):
    module = on_meta()
    state = {name: value.to(stored) + (7 if "freqs" in name else 0) for name, value in state.items()}
    load_into(module, state, dtype=stored)
    assert torch.equal(module.rope.rope.freqs, torch.arange(3, dtype=torch.float32) / 3)
    with pytest.raises(ValueError, match=r"rope\.rope\.freqs"):
        load_into(on_meta(), {**state, "rope.rope.freqs": torch.ones(4)}, dtype=stored)
    with pytest.raises(ValueError, match=r"rope\.rope\.freqs"):
        load_into(on_meta(), {k: v for k, v in state.items() if "freqs" not in k}, dtype=stored)


def test_a_module_that_cannot_compute_its_buffers_is_named_a_programming_error():
    with pytest.raises(AssertionError, match=r"Rope has buffers without values: rope\.freqs"):
        load_into(on_meta(Rope), {"rope.freqs": torch.ones(3)}, dtype=torch.float32)


def test_a_module_that_is_not_on_meta_is_loaded_too(state):
    module = Small()
    load_into(module, state, dtype=torch.float64)
    assert torch.equal(module.first.weight, state["first.weight"].double())


def test_the_first_misfits_of_every_sort_are_named_and_nothing_is_loaded(state):
    wrong = dict(state)
    del wrong["first.bias"]
    wrong["third.weight"] = torch.ones(1)
    wrong["second.weight"] = torch.ones(2, 5)
    wrong["first.weight"] = torch.ones(4, 3, dtype=torch.int8)
    module = on_meta()
    with pytest.raises(ValueError) as caught:
        load_into(module, wrong, dtype=torch.float32, source="w.pth", advice="Fetch w.pth again.")
    message = str(caught.value)
    for words in (
        "w.pth does not fit Small",
        "1 names are missing: first.bias",
        "1 names are unknown: third.weight",
        "second.weight [2, 5] instead of [2, 4]",
        "first.weight torch.int8",
        "Fetch w.pth again.",
    ):
        assert words in message
    assert all(p.is_meta for p in module.parameters())


def test_a_long_list_of_misfits_is_cut():
    with pytest.raises(ValueError, match=r"names are unknown: x0, x1, x2, x3, x4 and 95 more"):
        load_into(on_meta(), {f"x{i}": torch.ones(1) for i in range(100)}, dtype=torch.float32)


@pytest.mark.parametrize("dims", [0, 2, 3])
def test_older_names_of_the_vae_attention_are_understood_also_as_convolutions(dims):
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_q, self.to_k, self.to_v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.to_out = nn.ModuleList([nn.Linear(4, 4)])

    class Mid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attentions = nn.ModuleList([Attention()])

    wanted = Mid().state_dict()
    old = {}
    for name, value in wanted.items():
        for new, was in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(new, was)
        old[name] = value.reshape(4, 4, *[1] * dims) if value.ndim == 2 else value
    assert not set(old) & set(wanted)
    module = on_meta(Mid)
    load_into(module, old, dtype=torch.float32)
    assert all(torch.equal(value, wanted[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused_with_a_sentence(tmp_path, state, suffix):
    path = write({**state, "large": torch.ones(5000)}, tmp_path / f"w{suffix}")
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:7], whole[: len(whole) // 2], whole[:-9], b"\xff" * 1000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or incomplete"):
            read_state_dict(path)


class Runs:
    """What a hostile pickle is made of."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_does_not_run(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(1), "x": Runs()}, "evil.pth", _use_new_zipfile_serialization=not legacy)
    Path("plain.pth").write_bytes(pickle.dumps(Runs(), protocol=2))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ValueError, match="could run code"):
            read_state_dict(name)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "content", [{"state": {"w": 1}}, {"w": torch.ones(1), "step": 3}, [torch.ones(1)], {1: torch.ones(1)}]
)
def test_what_is_not_a_flat_dictionary_of_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="dictionary of tensors"):
        read_state_dict(tmp_path / "w.pth")


def test_files_from_before_the_archive_format_and_wrapped_parameters_are_read(tmp_path):
    torch.save({"w": nn.Parameter(torch.ones(2))}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_state_dict(tmp_path / "old.pth")["w"], torch.ones(2))


def test_missing_files_and_other_kinds_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"projects/download\.py"):
        read_state_dict(tmp_path / "w.pth")
    (tmp_path / "w.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.pth and \.safetensors"):
        read_state_dict(tmp_path / "w.bin")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the process's memory from /proc")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_are_mapped_not_read_and_never_written_through(tmp_path, suffix):
    path = write({"w": torch.ones(8 << 20)}, tmp_path / f"w{suffix}")  # 32 MiB
    whole = path.read_bytes()

    def resident_mib() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    before = resident_mib()
    state = read_state_dict(path)
    assert resident_mib() - before < 8
    state["w"].zero_()
    assert path.read_bytes() == whole


def test_saving_is_complete_or_not_at_all_and_separates_shared_memory(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    state = {"all": base, "row": base[1], "turned": base.T, "again": base}
    path = tmp_path / "deep" / "w.safetensors"
    save_safetensors(state, path, {"steps": "10"})
    back = read_state_dict(path)
    assert all(torch.equal(back[name], state[name]) for name in state) and set(back) == set(state)
    with safe_open(path, "pt") as file:
        assert file.metadata()["steps"] == "10"
    before = path.read_bytes()
    with pytest.raises(Exception):  # noqa: B017 - whatever the writer says about a tensor without values
        save_safetensors({"w": torch.ones(2, device="meta")}, path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(state, value):
    next(iter(state.values())).view(-1)[0] = value
    with pytest.raises(ValueError, match=rf"a\.pth holds values that are not finite in {next(iter(state))}"):
        load_into(on_meta(), state, dtype=torch.float32, source="a.pth")
