"""Weights by the names people have: which file of a folder is taken, and files that the user names."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from projects.video_diffusion_sr.build import ROOT, Request, build
from projects.video_diffusion_sr.cli import main
from projects.video_diffusion_sr.presets import SEEDVR2_7B, SEEDVR2_TINY
from projects.video_diffusion_sr.settings import resolve
from projects.video_diffusion_sr.weight_files import find_weights

TINY = ROOT / "ckpts" / "tiny"


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (["seedvr2_ema_7b_fp16.safetensors", "seedvr2_ema_7b.safetensors"], "seedvr2_ema_7b.safetensors"),
        (["seedvr2_ema_7b-Q8_0.gguf", "seedvr2_ema_7b_fp16.safetensors"], "seedvr2_ema_7b_fp16.safetensors"),
        (
            ["seedvr2_ema_7b_fp8_e4m3fn.safetensors", "seedvr2_ema_7b_fp16.safetensors"],
            "seedvr2_ema_7b_fp16.safetensors",
        ),
        (["seedvr2_ema_7b-Q4_K_M.gguf", "seedvr2_ema_7b-Q8_0.gguf"], "seedvr2_ema_7b-Q8_0.gguf"),
        (["seedvr2_ema_7b_fp8_e4m3fn_mixed_block35_fp16.safetensors"], None),
        (["seedvr2_ema_7b_sharp_fp16.safetensors", "seedvr2_ema_7b_sharp-Q8_0.gguf"], "seedvr2_ema_7b.pth"),
        (["seedvr2_ema_7b_fp16.safetensors.part", "seedvr2_ema_3b_fp16.safetensors"], "seedvr2_ema_7b.pth"),
    ],
)
def test_the_most_exact_file_of_the_right_model_is_taken(tmp_path, present, chosen):
    for name in present:
        (tmp_path / name).touch()
    assert find_weights(tmp_path / SEEDVR2_7B.checkpoint).name == (chosen or present[0])


def test_a_folder_that_is_not_there_leaves_the_released_name(tmp_path):
    assert find_weights(tmp_path / "none" / "a.pth") == tmp_path / "none" / "a.pth"


def test_named_files_replace_the_presets_own(tmp_path):
    halves = {f"model.diffusion_model.{n}": t.half() for n, t in load_file(TINY / "dit.safetensors").items()}
    doubled = {n: t * 2 if n == "encoder.conv_in.bias" else t for n, t in load_file(TINY / "vae.safetensors").items()}
    save_file(halves, tmp_path / "any name.safetensors")
    save_file(doubled, tmp_path / "vae.safetensors")
    files = {"checkpoint": tmp_path / "any name.safetensors", "vae_checkpoint": tmp_path / "vae.safetensors"}
    with process_group("cpu") as process:
        usual = build(SEEDVR2_TINY, Request(res=(32, 32)), Parallel(process)).infer
        named = build(SEEDVR2_TINY, Request(res=(32, 32), **files), Parallel(process)).infer
    for name, tensor in named.dit.state_dict().items():
        if not name.endswith("rope.freqs"):
            assert torch.equal(tensor, halves[f"model.diffusion_model.{name}"].float()), name
    was, now = (infer.vae.state_dict()["encoder.conv_in.bias"] for infer in (usual, named))
    assert torch.equal(now, 2 * was) and was.abs().max() > 0


@pytest.mark.parametrize("named", ["checkpoint", "vae_checkpoint"])
def test_random_weights_are_not_mixed_with_named_files(named):
    request = Request(res=(32, 32), random_weights=True, **{named: TINY / "dit.safetensors"})
    with pytest.raises(ValueError, match="leave one of them out"):
        resolve(SEEDVR2_TINY, request, torch.device("cpu"))


@pytest.mark.parametrize("flag", ["--checkpoint", "--vae_checkpoint"])
def test_a_named_file_that_is_missing_or_anothers_ends_the_run(tmp_path, capsys, flag):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "in" / "a.png")
    other = {"--checkpoint": "vae.safetensors", "--vae_checkpoint": "dit.safetensors"}[flag]
    common = ["--video_path", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    for path, said in ((tmp_path / "no.safetensors", "no such file"), (tmp_path, "a folder"), (TINY / other, "holds")):
        assert main(SEEDVR2_TINY, [*common, flag, str(path)]) == 2
        message = capsys.readouterr().err
        assert said in message and str(path) in message
    assert not list((tmp_path / "out").rglob("*.png"))
