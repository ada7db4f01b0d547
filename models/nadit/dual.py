"""Layers for two streams, video and text, with two sets of weights or a shared one."""

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


class TwoStream(nn.Module, Generic[Layer]):
    """One layer for both streams, with the names in the checkpoints: `.vid` and `.txt`, or `.all` if shared.

    Args:
        make: builds the layer; called once or twice.
        shared: both streams use the same weights.
        video_only: the text stream does not reach this layer. A shared layer is called `.all` nevertheless.
    """

    def __init__(self, make: Callable[[], Layer], shared: bool, video_only: bool = False) -> None:
        super().__init__()
        if shared:
            self.all = make()
        else:
            self.vid = make()
            if not video_only:
                self.txt = make()

    @property
    def video(self) -> Layer:
        return self.all if "all" in self._modules else self.vid

    @property
    def text(self) -> Layer:
        return self.all if "all" in self._modules else self.txt
