"""Files that were made to do harm, or that harm has come to: sentences, and nothing of them runs."""

import json
import pickle
import random
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from common.checkpoint import read_state_dict
from common.config import load_config
from common.distributed.checkpoint import checkpoints, load_checkpoint, read_meta, save_checkpoint
from common.distributed.metadata import DamagedCheckpoint, read_metadata
from projects import export
from projects.video_diffusion_sr.lora import read_lora
from projects.video_diffusion_sr.prompts import read_prompt_pair


class Harmful:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def checkpoint(folder, step: int = 3):
    tensors = {"modules/dit.a": torch.arange(6.0).view(2, 3), "ema/dit.a": torch.ones(2, 3)}
    return save_checkpoint(folder, step, tensors, {"stage": "diffusion", "seed": 1, "header": {}}, keep=9)


def test_metadata_that_torch_wrote_is_read(tmp_path):
    path = checkpoint(tmp_path)
    plain = pickle.loads((path / ".metadata").read_bytes())
    assert read_metadata(path).state_dict_metadata == plain.state_dict_metadata
    found = {"modules/dit.a": torch.empty(2, 3)}
    load_checkpoint(path, found)
    assert torch.equal(found["modules/dit.a"], torch.arange(6.0).view(2, 3))


def test_hostile_metadata_does_not_run_on_resume_or_export(tmp_path, caplog):
    path, mark = checkpoint(tmp_path / "checkpoints"), tmp_path / "ran"
    (path / ".metadata").write_bytes(pickle.dumps(Harmful(mark)))
    with pytest.raises(DamagedCheckpoint, match="open"):
        load_checkpoint(path, {"modules/dit.a": torch.empty(2, 3)})
    with pytest.raises(ValueError, match="metadata"):
        export.main([str(tmp_path), "--output", str(tmp_path / "a.safetensors")])
    assert not mark.exists()


@pytest.mark.parametrize("change", ["outside", "huge", "list", "cut"])
def test_metadata_that_describes_something_else(tmp_path, change):
    path = checkpoint(tmp_path)
    data = (path / ".metadata").read_bytes()
    found = pickle.loads(data)
    if change == "outside":
        next(iter(found.storage_data.values())).relative_path = "../../secret"
    elif change == "huge":
        found.state_dict_metadata["modules/dit.a"].size = torch.Size([1 << 20, 1 << 20])
    changed = data[:-20] if change == "cut" else pickle.dumps([] if change == "list" else found)
    (path / ".metadata").write_bytes(changed)
    with pytest.raises(DamagedCheckpoint):
        read_metadata(path)


def test_mutated_checkpoints_are_damaged_and_nothing_else(tmp_path):
    path, draws = checkpoint(tmp_path), random.Random(5)
    whole = {file: file.read_bytes() for file in path.iterdir()}
    for _ in range(40):
        file = draws.choice(sorted(whole))
        data = bytearray(whole[file])
        for _ in range(draws.randint(1, 8)):
            data[draws.randrange(len(data))] = draws.randrange(256)
        file.write_bytes(data[: draws.choice([len(data), len(data) // 2])])
        try:
            read_meta(path)
            load_checkpoint(path, {"modules/dit.a": torch.empty(2, 3)})
        except ValueError:  # also: another name or shape than asked for
            pass
        file.write_bytes(whole[file])


def test_mutated_pth_files_are_sentences(tmp_path):
    path, draws = tmp_path / "a.pth", random.Random(6)
    torch.save({"a": torch.ones(4, 4), "b": torch.zeros(3)}, path)
    whole = path.read_bytes()
    for _ in range(120):
        data = bytearray(whole)
        for _ in range(draws.randint(1, 20)):
            data[draws.randrange(len(data))] = draws.randrange(256)
        path.write_bytes(data)
        try:
            read_state_dict(path)
        except ValueError as error:
            assert str(error).startswith(str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(ValueError, match="damaged"):
        read_state_dict(path)


A, B = torch.ones(2, 8), torch.ones(8, 2)
GOOD = json.dumps({"rank": 2, "alpha": 2.0})


@pytest.mark.parametrize(
    ("tensors", "header"),
    [
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, "{"),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, "[]"),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, '{"alpha": 1}'),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, '{"rank": "2"}'),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, '{"rank": 2.5}'),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, '{"rank": true}'),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, '{"rank": 0}'),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, '{"rank": -2}'),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, '{"rank": 2, "alpha": NaN}'),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, '{"rank": 2, "alpha": "x"}'),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, '{"rank": 2, "alpha": [1]}'),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, '{"rank": 2, "more": 1}'),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, '{"rank": 3}'),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B}, "[" * 5000),
        ({"l.lora_A.weight": A[0], "l.lora_B.weight": B}, GOOD),
        ({"l.lora_A.weight": torch.tensor(1.0), "l.lora_B.weight": B}, GOOD),
        ({"l.lora_A.weight": A.int(), "l.lora_B.weight": B}, GOOD),
        ({"l.lora_A.weight": A * float("nan"), "l.lora_B.weight": B}, GOOD),
        ({"l.lora_A.weight": A, "l.lora_B.weight": B * float("inf")}, GOOD),
        ({".lora_A.weight": A, ".lora_B.weight": B}, GOOD),
        ({"l.lora_A.bias": A, "l.lora_B.weight": B}, GOOD),
        ({"l.lora_A.weight.more": A, "l.lora_B.weight": B}, GOOD),
        ({"l.lora_A.weight": A[None], "l.lora_B.weight": B}, GOOD),
    ],
)
def test_malformed_loras_are_sentences(tmp_path, tensors, header):
    path = tmp_path / "l.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"lora": header})
    with pytest.raises(ValueError, match=r"l\.safetensors"):
        read_lora(path)


def test_a_lora_that_is_no_file_of_tensors(tmp_path):
    (tmp_path / "l.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(ValueError, match="damaged"):
        read_lora(tmp_path / "l.safetensors")


@pytest.mark.parametrize("content", [{}, {"pos": torch.ones(2, 4)}, {"pos": torch.ones(4), "neg": torch.ones(2, 4)}])
def test_damaged_prompts_are_sentences(tmp_path, content):
    path = tmp_path / "prompts.safetensors"
    save_file(content, path)
    with pytest.raises(ValueError, match=r"prompts\.safetensors"):
        read_prompt_pair(path, 4)


def doubling_anchors() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)])


def doubling_texts() -> str:
    return "\n".join(["a0: xxxxxxxxxx", *(f"a{i}: ${{a{i - 1}}}${{a{i - 1}}}" for i in range(1, 40))])


def doubling_lists() -> str:
    return "\n".join(["a0: [x, x]", *(f"a{i}: ['${{a{i - 1}}}', '${{a{i - 1}}}']" for i in range(1, 40))])


@pytest.mark.parametrize(
    "text",
    [
        doubling_anchors(),
        doubling_texts(),
        doubling_lists(),
        "a: " + "[" * 500 + "]" * 500,
        "a: " + "{b: " * 3000 + "1" + "}" * 3000,
        "a: ${b}\nb: ${a}\n",
        "a: ${oc.env:HOME}\n",
        "a: b\nb: c\nc: ${${a}}\n",
        "a: " + "x" * (2 << 20),
        "a: &a {b: *a}\n",
    ],
)
def test_yaml_that_grows_is_refused_at_once(tmp_path, text):
    (tmp_path / "main.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"main\.yaml"):
        load_config(tmp_path / "main.yaml")


def test_files_that_inherit_each_other_many_times(tmp_path):
    (tmp_path / "0.yaml").write_text("a: 1\n")
    for i in range(1, 30):
        (tmp_path / f"{i}.yaml").write_text(f"__inherit__: [{i - 1}.yaml, {i - 1}.yaml, {i - 1}.yaml]\nb{i}: 1\n")
    assert len(load_config(tmp_path / "29.yaml")) == 30


def test_the_newest_checkpoint_that_can_be_read(tmp_path):
    for step in (1, 2):
        checkpoint(tmp_path, step)
    newest = checkpoints(tmp_path)[-1]
    (newest / "meta.json").write_text("{")
    with pytest.raises(DamagedCheckpoint):
        read_meta(newest)
    assert read_meta(checkpoints(tmp_path)[0])["step"] == 1
