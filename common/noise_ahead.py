"""Noise that a thread draws while the device and the thread that queues its work are busy with other things."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from common.kernels.current_device import enter_stream, stream_of
from common.kernels.transfer import to_device
from common.seed import frame_noise


class NoiseAhead:
    """`frame_noise` of one kind on a device; one generator of the host draws 5 to 10 million numbers in 30 ms.

    A context: what is still to be drawn at its end is left out. It is for the stream in which it was made.

    Args:
        seed, kind: see `frame_noise`. shape: (height, width, channels) of a latent frame.
    """

    def __init__(self, seed: int, kind: str, shape: tuple[int, int, int], device: torch.device) -> None:
        self._seed, self._kind, self._shape, self._device = seed, kind, shape, device
        self._thread = ThreadPoolExecutor(1, f"{kind} noise", enter_stream, (stream_of(device),))
        self._frames: dict[int, Future[Tensor]] = {}

    def __enter__(self) -> "NoiseAhead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def expect(self, first: int, frames: int) -> None:
        """Begin to draw latent frames first ... first + frames - 1, of which some may be expected already."""
        for frame in range(first, first + frames):
            if frame not in self._frames:
                self._frames[frame] = self._thread.submit(self._draw, frame)

    def take(self, first: int, frames: int) -> Tensor:
        """Latent frames first ... first + frames - 1, [frames, height, width, channels] float32 on the device.

        Frames before `first` are forgotten; these may be taken once more.
        """
        self.expect(first, frames)
        for frame in [frame for frame in self._frames if frame < first]:
            self._frames.pop(frame).cancel()
        return torch.cat([self._frames[frame].result() for frame in range(first, first + frames)])

    def _draw(self, frame: int) -> Tensor:
        return to_device(frame_noise(self._seed, self._kind, frame, 1, *self._shape), self._device)
