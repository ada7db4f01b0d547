"""Video restoration with the SeedVR models: `seedvr.load("seedvr2_3b")` returns a restorer for arrays and files.

Importing this package is fast, because PyTorch is imported by the first call that needs it. See docs/python.md.
"""

from typing import TYPE_CHECKING, Any

from seedvr.errors import (
    Cancelled,
    InputError,
    MemoryPlanError,
    NotFiniteError,
    OutputError,
    SeedVRError,
    WeightsError,
)

if TYPE_CHECKING:
    from seedvr.live import Live
    from seedvr.loading import from_pretrained, load, presets
    from seedvr.pipeline import SeedVRPipeline
    from seedvr.restorer import Restorer

__version__ = "0.1.0"
__all__ = [
    "Cancelled",
    "InputError",
    "Live",
    "MemoryPlanError",
    "NotFiniteError",
    "OutputError",
    "Restorer",
    "SeedVRError",
    "SeedVRPipeline",
    "WeightsError",
    "from_pretrained",
    "load",
    "presets",
]

LAZY = {
    "from_pretrained": "seedvr.loading",
    "load": "seedvr.loading",
    "presets": "seedvr.loading",
    "Restorer": "seedvr.restorer",
    "Live": "seedvr.live",
    "SeedVRPipeline": "seedvr.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import the names that need PyTorch at their first use."""
    if name not in LAZY:
        raise AttributeError(f"module 'seedvr' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *LAZY])
