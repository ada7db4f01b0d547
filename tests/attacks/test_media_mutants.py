"""Damaged files of every kind: each gives frames or a sentence that names it, in time; none ends the process.

The mutants are a seeded set; `SEEDS` of the slow test goes further.
"""

import random
import time

import pytest

from data.media import MediaError, open_media, open_writer, output_path
from data.media.probe import probe
from tests.attacks.media_mutants import CLIPS, PICTURES, make, mutant

LONGEST_S = 20  # of the processor, for one small mutant; what sleeps for ever meets the time limit of every test


def attack(path, whole, seed, mutants, result):
    """Read that many mutants, every fifth through to a result."""
    generator, readable = random.Random(f"{path.name} {seed}"), 0
    for number in range(mutants):
        path.write_bytes(mutant(whole, generator))
        started = time.process_time()
        for action in (probe, lambda p, write=number % 5 == 0: restore(p, result, write)):
            try:
                action(path)
                readable += 1
            except MediaError as error:
                assert str(error).startswith(path.name) and str(error).isprintable(), str(error)
        assert time.process_time() - started < LONGEST_S, f"mutant {number} of seed {seed}"
    return readable


def restore(path, folder, write):
    """Read all frames; if `write`, into a result beside the sound. Whatever the sound is, the picture is complete."""
    with open_media(path) as reader:
        info, shape = reader.info, None
        if not write or info.width * info.height > 1 << 20:
            for frame in reader:
                assert shape in (None, frame.pixels.shape)
                shape = frame.pixels.shape
            return
        target = output_path(path, folder, info)
        with open_writer(target, info, (info.height, info.width)) as writer:
            for frame in reader:
                writer.write(frame.pixels[None], [frame.time])
    with open_media(target) as result:
        assert sum(1 for _ in result) == writer.frames


@pytest.mark.parametrize("name", [*CLIPS, *PICTURES])
def test_mutants_give_frames_or_a_sentence(tmp_path, name):
    (tmp_path / "out").mkdir()
    whole = make(tmp_path, name).read_bytes()
    attack(tmp_path / name, whole, seed=0, mutants=12, result=tmp_path / "out")
    assert not [p for p in (tmp_path / "out").iterdir() if "part" in p.name]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("name", [*CLIPS, *PICTURES])
def test_more_mutants_give_frames_or_a_sentence(tmp_path, name, seed):
    (tmp_path / "out").mkdir()
    whole = make(tmp_path, name).read_bytes()
    readable = attack(tmp_path / name, whole, seed, mutants=100, result=tmp_path / "out")
    assert readable > 0  # damage is not always fatal
