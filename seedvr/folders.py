"""The folder of weights, for a checkout and for an installed package."""

import os
from pathlib import Path

from projects.video_diffusion_sr.cli_parser import ROOT

VARIABLE = "SEEDVR_CKPT_DIR"


def installed() -> bool:
    """Whether this is an installed package and not a checkout of the repository."""
    return not (ROOT / "tools" / "wheel.py").is_file()


def weights_folder(bundled: bool = False) -> Path:
    """The folder of weights and prompt embeddings where none is named.

    Args:
        bundled: for a model whose weights are part of the package.
    Returns:
        `ckpts` of a checkout; for an installed package $SEEDVR_CKPT_DIR or ~/.cache/seedvr/ckpts, because
        files of 16 GB do not belong into site-packages.
    """
    if bundled or not installed():
        return ROOT / "ckpts"
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).expanduser() / "seedvr" / "ckpts"
