"""The download program, its real code against a local stand-in for the hub."""

import hashlib
import logging
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import seedvr
from projects import download
from projects.video_diffusion_sr import prompts
from tests.conftest import ROOT
from tests.projects.stand_in_hub import StandInHub

REPOSITORY = "ByteDance-Seed/SeedVR2-3B"
WEIGHTS = bytes(range(256)) * 4000
VAE = b"vae" * 5000


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)  # what is lost with a connection
    with StandInHub() as hub:
        for name, content in {"seedvr2_ema_3b.pth": WEIGHTS, "ema_vae.pth": VAE}.items():
            hub.files[f"{REPOSITORY}/{name}"] = content
            hub.large.add(f"{REPOSITORY}/{name}")
        yield hub


@pytest.fixture
def embeddings(tmp_path, monkeypatch):
    """A folder with both embeddings, whose hashes the program takes for the released ones."""
    folder = tmp_path / "embeddings"
    folder.mkdir()
    for name in ("POSITIVE", "NEGATIVE"):
        prompt = getattr(prompts, name)
        torch.save(torch.zeros(prompt.shape, dtype=torch.bfloat16), folder / prompt.file)
        own = replace(prompt, sha256=hashlib.sha256((folder / prompt.file).read_bytes()).hexdigest())
        monkeypatch.setattr(download, name, own)
        monkeypatch.setattr(prompts, name, own)
    return folder


@pytest.fixture
def run(hub, tmp_path, monkeypatch, caplog):
    """Runs the program into `ckpts`: (exit code, what it said)."""
    monkeypatch.setattr(download, "set_up_logging", lambda: None)  # it would take the log away from the test
    caplog.set_level(logging.INFO)

    def run(*flags):
        caplog.clear()
        code = download.main(
            ["seedvr2_3b", "--dir", str(tmp_path / "ckpts"), "--endpoint", hub.address, *map(str, flags)]
        )
        return code, caplog.text

    return run


def in_ckpts(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "ckpts").iterdir()}


def test_everything_arrives_and_is_not_fetched_twice(hub, run, embeddings, tmp_path):
    code, _ = run("--prompt_dir", embeddings)
    assert code == 0
    files = in_ckpts(tmp_path)
    assert files["seedvr2_ema_3b.pth"] == WEIGHTS and files["ema_vae.pth"] == VAE
    assert set(files) == {"seedvr2_ema_3b.pth", "ema_vae.pth", "pos_emb.pt", "neg_emb.pt"}
    positive, negative = prompts.load_prompts(tmp_path / "ckpts")
    assert positive.shape == (58, 5120) and negative.shape == (64, 5120)
    fetched = len(hub.bodies)
    code, said = run("--prompt_dir", embeddings)
    assert code == 0 and len(hub.bodies) == fetched and said.count("already here") == 4


def test_a_lost_connection_is_taken_up_within_the_run(hub, run, embeddings, tmp_path):
    hub.drop_after = 100_000
    code, _ = run("--prompt_dir", embeddings)
    assert code == 0 and in_ckpts(tmp_path)["seedvr2_ema_3b.pth"] == WEIGHTS
    assert [wanted for path, wanted in hub.bodies if "3b.pth" in path] == [None, "bytes=100000-"]


def test_an_interrupted_run_goes_on_where_it_stopped(hub, run, embeddings, tmp_path):
    hub.drop_after, hub.broken_ranges = 300_000, True
    code, said = run("--prompt_dir", embeddings)
    assert code == 1 and "run the same command again" in said
    assert "seedvr2_ema_3b.pth" not in in_ckpts(tmp_path) and "ema_vae.pth" in in_ckpts(tmp_path)
    hub.broken_ranges = False
    hub.bodies.clear()
    code, said = run("--prompt_dir", embeddings)
    assert code == 0 and "going on after 0.3 MiB" in said and in_ckpts(tmp_path)["seedvr2_ema_3b.pth"] == WEIGHTS
    assert [wanted for _, wanted in hub.bodies] == ["bytes=300000-"]
    assert not list((tmp_path / "ckpts").glob("*.part"))


@pytest.mark.parametrize("large", [True, False])
def test_content_with_another_hash_never_gets_its_name(hub, run, embeddings, tmp_path, large):
    key = f"{REPOSITORY}/ema_vae.pth"
    hub.hash_of[key] = "0" * (64 if large else 40)
    if not large:
        hub.large.remove(key)
    code, said = run("--prompt_dir", embeddings)
    assert code == 1 and "does not have the hash 000" in said
    assert "ema_vae.pth" not in in_ckpts(tmp_path) and not list((tmp_path / "ckpts").glob("*.part"))


def test_a_damaged_file_that_is_already_there_is_replaced(run, embeddings, tmp_path):
    for damaged in (VAE[:-1], VAE[:-1] + b"x"):
        (tmp_path / "ckpts").mkdir(exist_ok=True)
        (tmp_path / "ckpts" / "ema_vae.pth").write_bytes(damaged)
        code, said = run("--prompt_dir", embeddings)
        assert code == 0 and "fetching it again" in said and in_ckpts(tmp_path)["ema_vae.pth"] == VAE


@pytest.mark.parametrize("place", ["beside the weights", "space", "address"])
def test_embeddings_are_found_in_any_of_the_known_places(hub, run, embeddings, tmp_path, place):
    flags = []
    for prompt in (prompts.POSITIVE, prompts.NEGATIVE):
        content = (embeddings / prompt.file).read_bytes()
        if place == "beside the weights":
            hub.files[f"{REPOSITORY}/{prompt.file}"] = content
        elif place == "space":
            hub.files[f"spaces/{download.PROMPT_SPACES[0]}/{prompt.file}"] = content
        else:
            hub.plain[f"code/main/{prompt.file}"] = content
            flags = ["--prompt_url", f"{hub.address}/code/main/"]
    code, said = run(*flags)
    assert code == 0, said
    assert in_ckpts(tmp_path)["pos_emb.pt"] == (embeddings / "pos_emb.pt").read_bytes()


def test_wrong_or_absent_embeddings_end_with_what_to_do(hub, run, embeddings, tmp_path):
    code, said = run("--prompt_url", f"{hub.address}/nowhere")
    assert code == 1 and "found nowhere" in said and "--prompt_dir" in said and "SHA-256 must be" in said
    hub.plain["code/pos_emb.pt"] = hub.plain["code/neg_emb.pt"] = b"a page of an error"
    code, said = run("--prompt_url", f"{hub.address}/code")
    assert code == 1 and "does not have the hash" in said
    (embeddings / "neg_emb.pt").write_bytes(b"other")
    code, said = run("--prompt_dir", embeddings)
    assert code == 1 and "is not the released embedding" in said
    assert set(in_ckpts(tmp_path)) == {"seedvr2_ema_3b.pth", "ema_vae.pth", "pos_emb.pt"}


def test_what_the_hub_does_not_have_is_a_sentence_and_the_rest_goes_on(hub, run, embeddings, tmp_path):
    del hub.files[f"{REPOSITORY}/seedvr2_ema_3b.pth"]
    code, said = run("--prompt_dir", embeddings)
    assert code == 1 and "the hub has no seedvr2_ema_3b.pth" in said and "ema_vae.pth" in in_ckpts(tmp_path)


def test_the_program_runs_from_any_working_directory(hub, tmp_path):
    environment = {**os.environ, "NO_PROXY": "127.0.0.1,localhost", "HF_ENDPOINT": hub.address, "PYTHONPATH": ""}
    command = [sys.executable, str(ROOT / "projects" / "download.py"), "seedvr2_3b", "--dir", "here"]
    command += ["--prompt_url", f"{hub.address}/nowhere"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1 and "found nowhere" in done.stderr
    assert (tmp_path / "here" / "seedvr2_ema_3b.pth").read_bytes() == WEIGHTS


def test_prompts_of_another_shape_or_kind_are_refused_and_other_values_only_warned_about(tmp_path, caplog):
    with pytest.raises(FileNotFoundError, match=r"projects/download\.py"):
        prompts.load_prompts(tmp_path)
    for prompt in (prompts.POSITIVE, prompts.NEGATIVE):
        torch.save(torch.ones(prompt.shape, dtype=torch.bfloat16), tmp_path / prompt.file)
    assert prompts.load_prompts(tmp_path)[0].dtype == torch.bfloat16
    assert caplog.text.count("is not the released embedding") == 2
    for wrong in (torch.ones(3, 5120), torch.ones(64, 5120, dtype=torch.int32), {"a": torch.ones(1)}):
        torch.save(wrong, tmp_path / "neg_emb.pt")
        with pytest.raises(ValueError, match="not an embedding"):
            prompts.load_prompts(tmp_path)
    (tmp_path / "neg_emb.pt").write_bytes(b"text")
    with pytest.raises(ValueError, match="damaged"):
        prompts.load_prompts(tmp_path)


def test_from_pretrained_fetches_what_is_missing(hub, embeddings, tmp_path, monkeypatch):
    """Also by the repository's name; what arrived here is no checkpoint, which loading then says."""
    folder = tmp_path / "ckpts"
    folder.mkdir()
    for file in embeddings.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in (REPOSITORY, "seedvr2_3b"):
        with pytest.raises(seedvr.WeightsError, match=r"seedvr2_ema_3b\.pth|ema_vae\.pth"):
            seedvr.from_pretrained(name, endpoint=hub.address, ckpt_dir=folder, device="cpu")
        assert (folder / "seedvr2_ema_3b.pth").read_bytes() == WEIGHTS
    del hub.files[f"{REPOSITORY}/ema_vae.pth"]
    (folder / "ema_vae.pth").unlink()
    with pytest.raises(seedvr.WeightsError, match=r"the hub has no ema_vae\.pth"):
        seedvr.from_pretrained(REPOSITORY, endpoint=hub.address, ckpt_dir=folder, device="cpu")
