"""Programs compute with repeatable convolutions; a library's host keeps its setting."""

import pytest
import torch

from common.kernels.repeatable import repeatable
from projects.video_diffusion_sr import cli
from projects.video_diffusion_sr.presets import SEEDVR2_TINY


@pytest.mark.parametrize("own", [False, True])
def test_the_setting_lasts_as_long_as_the_block(monkeypatch, own):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", own)
    with pytest.raises(KeyError), repeatable():
        assert torch.backends.cudnn.deterministic
        raise KeyError
    assert torch.backends.cudnn.deterministic == own


def test_the_program_computes_so(monkeypatch, tmp_path):
    seen = []

    def run_files(*_):
        seen.append(torch.backends.cudnn.deterministic)
        return 0, 1

    monkeypatch.setattr(cli, "run_files", run_files)
    assert cli.main(SEEDVR2_TINY, ["--video_path", str(tmp_path), "--output_dir", str(tmp_path / "out")]) == 0
    assert seen == [True] and not torch.backends.cudnn.deterministic
