"""Weights for two streams, video and text: two sets of them, or one that both share."""

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


class TwoStream(nn.Module, Generic[Layer]):
    """One layer for both streams, under the names of the checkpoints: `.vid` and `.txt`, or `.all` where shared.

    Args:
        make: builds the layer; called once or twice.
        shared: one set of weights for both.
        video_only: the text stream does not reach this layer (a shared layer keeps its name all the same).
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
