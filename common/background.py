"""Work in a thread of its own, ahead of or behind the thread that computes, bounded in bytes and in items.

Decoding and encoding release Python's lock for most of their time, so a file is read and written while its networks
compute. Every class here has a plain twin that does the same work in the caller's thread, in the same order.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

# An item costs more than its bytes: of a clip of thumbnails, thousands of frames would wait until their bytes count.
MOST_ITEMS = 256


class _Stopped(Exception):
    """The other thread has left; not an error of its own."""


class _Channel(Generic[Item]):
    """A queue between two threads that holds a bounded number of bytes, at most `MOST_ITEMS` items and at least one.

    Args:
        size: bytes of an item. most_bytes: that may wait.
    """

    def __init__(self, size: Callable[[Item], int], most_bytes: int) -> None:
        self._size, self._most = size, most_bytes
        self._items: deque[Item] = deque()
        self._bytes, self._ended, self._stopped = 0, False, False
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Waits for room. Raises `_Stopped` when the taker has left."""
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
        """The next item, once there is one. Raises StopIteration at the end, `_Stopped` after `stop`."""
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
        """No item follows."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Both sides leave at once; what waits is dropped."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()


class ReadAhead(Iterator[Item]):
    """What an iterable yields, made in a thread while the caller works on earlier items. A context manager.

    An error of the iterable is raised at its place in the order. Leaving the context ends the thread, which closes the
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
        iterator = iter(self._source)
        try:
            for item in iterator:
                self._channel.put(item)
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
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
    """Items consumed in a thread, in order, while the caller makes later ones. A context manager.

    An error of `consume` is raised at the next `put`, or at `finish`. Leaving the context without `finish` drops what
    waits.

    Attributes:
        waited: seconds that the caller has waited for room, or for the end.
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
        """Wait until everything is consumed."""
        started = time.perf_counter()
        self._channel.end()
        self._thread.join()
        self.waited += time.perf_counter() - started
        self._raise()

    def stop(self) -> None:
        """End the thread after the item in its hands; what waits is dropped. May be called from any thread."""
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
    """The plain twin of `ReadAhead`: items are made when they are asked for, in the caller's thread."""

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
    """The plain twin of `WriteBehind`: an item is consumed before `put` returns."""

    def __init__(self, consume: Callable[[Item], None]) -> None:
        self.waited, self._consume = 0.0, consume

    def put(self, item: Item) -> None:
        started = time.perf_counter()
        self._consume(item)
        self.waited += time.perf_counter() - started

    def finish(self) -> None:
        """Everything is consumed already."""

    def stop(self) -> None:
        """There is no thread."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing waits."""
