"""The functions of ComfyUI that the nodes use if ComfyUI is there: progress bar, stop button, memory."""

import importlib
from types import ModuleType

STAGES = ("encode", "sample", "decode")


def comfy(name: str) -> ModuleType | None:
    """Import the module `comfy.NAME`; None if ComfyUI, or this module of it, is not installed."""
    try:
        return importlib.import_module(f"comfy.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("comfy", f"comfy.{name}"):
            raise  # ComfyUI is installed but one of its own imports fails
        return None


class Progress:
    """Shows seedvr's progress on ComfyUI's progress bar. ComfyUI's stop button makes a call raise, which ends the run.

    Args:
        frames: the number of frames of all calls of the restorer together; each frame passes three stages.
    """

    def __init__(self, frames: int) -> None:
        self.all = len(STAGES) * frames
        utils, self._management = comfy("utils"), comfy("model_management")
        self._bar = None if utils is None else utils.ProgressBar(self.all)
        self._before, self._done = 0, {}

    def start_at(self, frame: int) -> None:
        """Begin the next call of the restorer; earlier calls have restored `frame` frames."""
        self._before, self._done = len(STAGES) * frame, {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Report that `done` frames have passed a stage; `total` is not used. Raises if the user stopped the run."""
        self._done[stage] = done
        if self._bar is not None:
            self._bar.update_absolute(min(self._before + sum(self._done.values()), self.all), self.all)
        if self._management is not None:
            self._management.throw_exception_if_processing_interrupted()


def make_room(device: str) -> None:
    """Make ComfyUI unload its models from the GPU, since the memory plan counts free memory; nothing for "cpu"."""
    management = comfy("model_management")
    if management is not None and device != "cpu":
        management.unload_all_models()
        management.soft_empty_cache()
