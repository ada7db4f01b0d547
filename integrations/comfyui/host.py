"""Optional functions of ComfyUI that the nodes use: progress bar, stop button, memory."""

import importlib
from types import ModuleType

STAGES = ("encode", "sample", "decode")


def comfy(name: str) -> ModuleType | None:
    """A module of ComfyUI; None without ComfyUI."""
    try:
        return importlib.import_module(f"comfy.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("comfy", f"comfy.{name}"):
            raise  # ComfyUI is installed but one of its own imports fails
        return None


class Progress:
    """seedvr's progress on ComfyUI's bar. Called by seedvr; ComfyUI's stop button ends the run from in here.

    Args:
        frames: in all calls that this bar is for; each goes through three stages.
    """

    def __init__(self, frames: int) -> None:
        self.all = len(STAGES) * frames
        utils, self._management = comfy("utils"), comfy("model_management")
        self._bar = None if utils is None else utils.ProgressBar(self.all)
        self._before, self._done = 0, {}

    def start_at(self, frame: int) -> None:
        """Begin the next call, after `frame` frames of earlier ones."""
        self._before, self._done = len(STAGES) * frame, {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Report `done` frames through a stage."""
        self._done[stage] = done
        if self._bar is not None:
            self._bar.update_absolute(min(self._before + sum(self._done.values()), self.all), self.all)
        if self._management is not None:
            self._management.throw_exception_if_processing_interrupted()


def make_room(device: str) -> None:
    """Ask ComfyUI to move its models off the GPU, because the memory plan starts from free memory."""
    management = comfy("model_management")
    if management is not None and device != "cpu":
        management.unload_all_models()
        management.soft_empty_cache()
