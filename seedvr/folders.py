"""Finds the weights folder of a checkout or of an installed package."""

import os
from pathlib import Path

from projects.video_diffusion_sr.cli_parser import ROOT

VARIABLE = "SEEDVR_CKPT_DIR"


def installed() -> bool:
    """Whether this module runs from an installed package and not from a checkout of the repository."""
    return not (ROOT / "tools" / "wheel.py").is_file()


def weights_folder(bundled: bool = False) -> Path:
    """The default folder of weights and prompt embeddings.

    Args:
        bundled: whether the model's weights are part of the package.
    Returns:
        `ckpts` in a checkout. For an installed package $SEEDVR_CKPT_DIR, or else ~/.cache/seedvr/ckpts, because
        files of 16 GB do not belong into site-packages.
    """
    if bundled or not installed():
        return ROOT / "ckpts"
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).expanduser() / "seedvr" / "ckpts"
