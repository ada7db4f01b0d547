"""Reads ahead of, or writes behind, the computing thread, in a separate thread with bounded bytes and items.

Decoding and encoding release Python's lock most of the time, so a file is read and written while its networks compute.
Every class has a counterpart without a thread, which does the same work in the same order in the caller's thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

# An item needs more memory than its bytes; without this limit, thousands of frames of a small clip would wait.
MOST_ITEMS = 256


class _Stopped(Exception):
    """The other thread has ended. This is not an error by itself."""


class _Channel(Generic[Item]):
    """A queue between two threads, bounded in bytes and to `MOST_ITEMS` items; it always accepts one item.

    Args:
        size: a function from an item to its bytes.
        most_bytes: limit of the bytes in the queue.
    """

    def __init__(self, size: Callable[[Item], int], most_bytes: int) -> None:
        self._size, self._most = size, most_bytes
        self._items: deque[Item] = deque()
        self._bytes, self._ended, self._stopped = 0, False, False
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Wait for room, and add an item. Raises `_Stopped` if the consumer has ended."""
        size = self._size(item)
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._has_room(size))
            if self._stopped:
                raise _Stopped
            self._items.append(item)
            self._bytes += size
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        return not self._items or (len(self._items) < MOST_ITEMS and self._bytes + size <= self._most)

    def take(self) -> Item:
        """Wait for the next item. Raises StopIteration at the end, and `_Stopped` after `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._items or self._ended)
            if self._stopped:
                raise _Stopped
            if not self._items:
                raise StopIteration
            item = self._items.popleft()
            self._bytes -= self._size(item)
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """Mark the end of the items."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Stop both threads; waiting items are dropped."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()


class ReadAhead(Iterator[Item]):
    """Iterates over an iterable in a thread, ahead of the caller. It is a context manager.

    An error of the iterable is raised after the items before it. Leaving the context ends the thread, which closes the
    iterable.

    Attributes:
        waited: seconds that the caller has waited for items.
    """

    def __init__(self, source: Iterable[Item], size: Callable[[Item], int], most_bytes: int) -> None:
        self.waited = 0.0
        self._source, self._channel = source, _Channel(size, most_bytes)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def _run(self) -> None:
        try:
            with ReadInPlace(self._source) as items:
                for item in items:
                    self._channel.put(item)
        except _Stopped:
            pass
        except BaseException as error:  # also where the source begins or closes: the caller must not wait for ever
            self._error = error
        finally:
            self._channel.end()

    def __next__(self) -> Item:
        started = time.perf_counter()
        try:
            return self._channel.take()
        except StopIteration:
            if self._error is not None:
                error, self._error = self._error, None
                raise error from None
            raise
        finally:
            self.waited += time.perf_counter() - started

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.stop()
        self._thread.join()


class WriteBehind(Generic[Item]):
    """Consumes items in a thread, in order, while the caller makes later ones. It is a context manager.

    An error of `consume` is raised at the next `put` or at `finish`. Leaving the context without `finish` drops waiting
    items.

    Attributes:
        waited: seconds that the caller has waited for room or for the end.
    """

    def __init__(self, consume: Callable[[Item], None], size: Callable[[Item], int], most_bytes: int) -> None:
        self.waited = 0.0
        self._consume, self._channel = consume, _Channel(size, most_bytes)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def _run(self) -> None:
        try:
            while True:
                self._consume(self._channel.take())
        except (StopIteration, _Stopped):
            pass
        except BaseException as error:
            self._error = error
            self._channel.stop()

    def put(self, item: Item) -> None:
        started = time.perf_counter()
        try:
            self._channel.put(item)
        except _Stopped:
            self._raise()
            raise
        finally:
            self.waited += time.perf_counter() - started

    def finish(self) -> None:
        """Wait until all items are consumed."""
        started = time.perf_counter()
        self._channel.end()
        self._thread.join()
        self.waited += time.perf_counter() - started
        self._raise()

    def stop(self) -> None:
        """End the thread after its current item; waiting items are dropped. May be called from any thread."""
        self._channel.stop()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.stop()
        self._thread.join()


class ReadInPlace(Iterator[Item]):
    """The counterpart of `ReadAhead` without a thread: items are made when the caller requests them."""

    def __init__(self, source: Iterable[Item]) -> None:
        self.waited, self._iterator = 0.0, iter(source)

    def __next__(self) -> Item:
        started = time.perf_counter()
        try:
            return next(self._iterator)
        finally:
            self.waited += time.perf_counter() - started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self._iterator, "close"):
            self._iterator.close()


class WriteInPlace(Generic[Item]):
    """The counterpart of `WriteBehind` without a thread: an item is consumed before `put` returns."""

    def __init__(self, consume: Callable[[Item], None]) -> None:
        self.waited, self._consume = 0.0, consume

    def put(self, item: Item) -> None:
        started = time.perf_counter()
        self._consume(item)
        self.waited += time.perf_counter() - started

    def finish(self) -> None:
        """Do nothing; all items are consumed."""

    def stop(self) -> None:
        """Do nothing; there is no thread."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Return 0; no item ever waits."""
