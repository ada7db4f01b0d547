"""The images' recipes fit the repository: what they copy, install and start is there, and their examples parse."""

import re
import shlex
import subprocess
import tomllib

import pytest

from projects import download
from projects.video_diffusion_sr.cli_parser import parse_flags
from seedvr.command import chosen_model
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "docker").glob("Dockerfile.*"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def steps(recipe) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, lines that go on joined."""
    text = re.sub(r"\\\n", " ", "".join(line for line in recipe.open() if not line.startswith("#")))
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def test_there_is_one_for_cuda_and_one_for_cpus():
    assert [recipe.suffix for recipe in RECIPES] == [".cpu", ".cuda"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.suffix)
def test_what_it_copies_installs_and_starts_is_there(recipe):
    said = steps(recipe)
    for instruction, arguments in said:
        if instruction == "COPY":
            assert all((ROOT / source).exists() for source in arguments.split()[:-1])
    (entry,) = [arguments for instruction, arguments in said if instruction == "ENTRYPOINT"]
    assert entry == f'["{next(iter(PROJECT["scripts"]))}"]'
    runs = " ".join(arguments for instruction, arguments in said if instruction == "RUN")
    for extra in re.findall(r'"\.\[(\w+)\]"', runs):
        assert extra in PROJECT["optional-dependencies"]
    (cut,) = re.findall(r"(sed '.*?' requirements\.txt) > base\.txt", runs)
    base = subprocess.run(["sh", "-c", cut], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    pinned = set(re.findall(r"^([\w-]+)==", base, flags=re.M))
    assert pinned == {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.suffix)
def test_its_examples_are_understood(recipe):
    comments = "".join(line.removeprefix("#") for line in recipe.open() if line.startswith("#"))
    examples = re.findall(r"docker run .*? seedvr:\w+ (.*)", comments.replace("\\\n", " "))
    assert examples
    for example in examples:
        name, *words = shlex.split(example)
        if name == "download":
            assert download.parse(words)
        else:
            preset, words = chosen_model(name, words, ["--video_path", "--output_dir"])
            assert parse_flags(preset, words)


def test_weights_that_were_fetched_stay_out_of_an_image():
    left_out = (ROOT / ".dockerignore").read_text().splitlines()
    assert left_out.index("ckpts/*") < left_out.index("!ckpts/tiny") and ".git" in left_out
    assert not {"seedvr", "models", "common", "data", "projects", "tools", "README.md", "LICENSE"} & set(left_out)
