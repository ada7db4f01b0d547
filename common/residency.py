"""Moves models between the host and the device: all stay on the device if they fit, otherwise one at a time.

Weights do not change in inference, so nothing is copied back: the host keeps a copy in pinned memory, and offloading a
model only frees its memory on the device. The weights of the next model are copied on a separate stream while the
current model computes.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from common.logger import get_logger

logger = get_logger(__name__)


class Residency:
    """Moves models to a device and frees them there.

    Args:
        models: the models by name, in evaluation mode, on the CPU or on the device.
        device: the device on which they compute.
        one_at_a_time: keep only one model on the device; False: keep all of them.
    """

    @torch.inference_mode(False)
    def __init__(self, models: Mapping[str, nn.Module], device: torch.device | str, one_at_a_time: bool) -> None:
        self.models, self.device = dict(models), torch.device(device)
        self.one_at_a_time = one_at_a_time
        self._masters: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._arrived: dict[str, torch.cuda.Event | None] = {}
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        for name, model in self.models.items():
            if self.one_at_a_time:
                self._masters[name] = [_with_master(tensor, self.device) for tensor in _tensors(model)]
            elif any(tensor.device != self.device for tensor in _tensors(model)):
                model.to(self.device)

    def switch(self, name: str | None, soon: Collection[str] = ()) -> None:
        """Make sure that the model `name` is on the device, and free all other models there.

        Args:
            name: the model that computes next; None: a model that moves by other means.
            soon: models that are kept on the device, or whose copy is started.
        """
        if not self.one_at_a_time:
            return
        for other in [other for other in self._arrived if other != name and other not in soon]:
            self.release(other)
        for wanted in [*([] if name is None else [name]), *soon]:
            self.prefetch(wanted)
        if name is not None:
            self._wait(name)

    @torch.inference_mode(False)
    def prefetch(self, name: str) -> None:
        """Start to copy a model to the device, unless it is there or being copied."""
        if not self.one_at_a_time or name in self._arrived:
            return
        copies = [torch.empty_like(master, device=self.device) for _, master in self._masters[name]]
        self._arrived[name] = None
        if self._stream is None:
            for copy, (_, master) in zip(copies, self._masters[name], strict=True):
                copy.copy_(master)
        else:
            # The memory was used on the computing stream, where unfinished work may still read it.
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._stream):
                for copy, (_, master) in zip(copies, self._masters[name], strict=True):
                    copy.copy_(master, non_blocking=True)
                self._arrived[name] = self._stream.record_event()
        for copy, (tensor, _) in zip(copies, self._masters[name], strict=True):
            tensor.data = copy
        logger.debug("%s: weights on their way to %s", name, self.device)

    def release(self, name: str) -> None:
        """Free the memory of a model on the device."""
        if self.one_at_a_time and name in self._arrived:
            self._wait(name)  # the computing stream reuses the memory and must wait for the copy
            del self._arrived[name]
            for tensor, master in self._masters[name]:
                tensor.data = master
            logger.debug("%s: off %s", name, self.device)

    def _wait(self, name: str) -> None:
        """Make the computing stream wait until a model's weights are copied."""
        event = self._arrived[name]
        if event is not None:
            torch.cuda.current_stream(self.device).wait_event(event)


def _tensors(model: nn.Module) -> list[Tensor]:
    """All parameters and buffers, without duplicates."""
    found = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return list(found.values())


def _with_master(tensor: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Point a tensor to a copy in host memory (pinned for CUDA devices). Returns the tensor and the copy."""
    master = torch.empty_like(tensor.data, device="cpu", pin_memory=device.type == "cuda")
    master.copy_(tensor.data)
    tensor.data = master
    return tensor, master
