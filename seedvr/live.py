"""A stream into which the caller pushes frames, and from which it gets restored frames back."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from seedvr.errors import InputError

MORE, END = object(), object()  # the stream requests a frame; the stream has ended


class Live:
    """Runs a stream in a thread and passes pushed frames to it. Made by `Restorer.live`.

    The thread computes only while `push` or `flush` waits for it. Memory is therefore that of a stream, and the result
    of a push depends only on the frames pushed so far.

    Args:
        run: a function from an iterator of frames to an iterator of restored frames.
    """

    def __init__(self, run: Callable[[Iterator[Any]], Iterable[Any]]) -> None:
        self._in: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._run = run
        self._thread: threading.Thread | None = None
        self._ended = False

    def push(self, frames: Any) -> list[Any]:
        """Add frames (one, or an array of several). Returns the restored frames that are ready, often none.

        Raises:
            Any error of the stream. After an error, Ctrl-C or `flush`, InputError.
        """
        if self._ended:
            raise InputError("this stream has ended: start another with live()")
        ready = []
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="seedvr-live")
            self._thread.start()
            ready += self._until_idle()
        if self._ended:
            return ready
        self._in.put(frames)
        return ready + self._until_idle()

    def flush(self) -> list[Any]:
        """End the clip. Returns the remaining restored frames. No frames can be pushed afterwards."""
        if self._ended or self._thread is None:
            self._ended = True
            return []
        self._in.put(END)
        return self._until_idle()

    def close(self) -> None:
        """End the stream without waiting for results. The restorer can then take another clip."""
        if self._thread is not None and not self._ended:
            self._ended = True
            self._in.put(GeneratorExit())
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _until_idle(self) -> list[Any]:
        """Collect results until the stream requests a frame or ends; raises the stream's errors."""
        ready = []
        while (said := self._next()) is not MORE:
            if said is END:
                self._ended = True
                break
            kind, value = said
            if kind == "error":
                self._ended = True
                raise value
            ready.append(value)
        return ready

    def _next(self) -> Any:
        try:
            return self._out.get()
        except BaseException:  # Ctrl-C: what the thread says later would be taken for the answer to the next push
            self._ended = True
            self._in.put(GeneratorExit())
            raise

    def _feed(self) -> Iterator[Any]:
        while True:
            self._out.put(MORE)
            given = self._in.get()
            if given is END:
                return
            if isinstance(given, GeneratorExit):
                raise given
            yield given

    def _work(self) -> None:
        try:
            for frame in self._run(self._feed()):
                self._out.put(("frame", frame))
        except BaseException as error:  # passed to the waiting thread
            self._out.put(("error", error))
        self._out.put(END)
