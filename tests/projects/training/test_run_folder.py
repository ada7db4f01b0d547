"""Every program that fills a folder has it to itself while it runs."""

import pytest

from projects import precompute_latents, recipe_evidence, train_tiny
from projects.video_diffusion_sr.training import run_folder

PROGRAMS = {
    "pairs": (train_tiny.main, "pairs --data DATA --output OUT", "OUT/pairs"),
    "vae": (train_tiny.main, "vae --data DATA --output OUT", "OUT/vae"),
    "fit": (train_tiny.main, "fit --output OUT", "OUT/fit"),
    "evidence": (recipe_evidence.main, "train --held_out DATA --output OUT", "OUT"),
    "latents": (precompute_latents.main, "--config configs_tiny/main.yaml --data DATA --output OUT --batches 1", "OUT"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_second_process_is_refused_and_changes_nothing(name, tmp_path, monkeypatch):
    main, words, folder = PROGRAMS[name]
    data, output = tmp_path / "data", tmp_path / "output"
    data.mkdir()
    monkeypatch.setattr(run_folder, "PATIENCE_S", 0.1)
    with run_folder.owned(tmp_path / folder.replace("OUT", "output")):
        before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=r"writes into .* now; wait for its end, or choose another --output"):
            main(words.replace("DATA", str(data)).replace("OUT", str(output)).split())
        assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert not [path for path in output.rglob("*") if path.is_file()]


def test_a_folder_below_a_file_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("kept")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="is a file, or lies below one"), run_folder.owned(folder):
            pass
    assert (tmp_path / "file").read_text() == "kept"
