"""Threads ahead of and behind the caller: the same order as without, bounded, errors in their place, no thread left."""

import threading
import time

import pytest

from common.background import MOST_ITEMS, ReadAhead, ReadInPlace, WriteBehind, WriteInPlace

READERS = [lambda source: ReadAhead(source, len, 30), ReadInPlace]
WRITERS = [lambda consume: WriteBehind(consume, len, 30), WriteInPlace]
ITEMS = [bytes([n]) * 10 for n in range(20)]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def produced(items, log, error_after=None):
    try:
        for number, item in enumerate(items):
            if number == error_after:
                raise ValueError("in the middle")
            log.append(number)
            yield item
    finally:
        log.append("closed")


@pytest.mark.parametrize("make", READERS)
def test_reading_keeps_the_order_and_closes_its_source(make):
    log = []
    with make(produced(ITEMS, log)) as reader:
        assert list(reader) == ITEMS
        with pytest.raises(StopIteration):
            next(reader)
    assert log[-1] == "closed"


@pytest.mark.parametrize("make", READERS)
def test_an_error_of_the_source_comes_at_its_place(make):
    seen = []
    with pytest.raises(ValueError, match="in the middle"), make(produced(ITEMS, [], 7)) as reader:
        for item in reader:
            seen.append(item)
    assert seen == ITEMS[:7]


@pytest.mark.parametrize("make", READERS)
def test_leaving_early_closes_the_source(make):
    log = []
    with make(produced(ITEMS, log)) as reader:
        next(reader)
    assert log[-1] == "closed" and len(log) < len(ITEMS)


def test_a_reader_is_only_so_many_bytes_ahead():
    log = []
    with ReadAhead(produced(ITEMS, log), len, 30) as reader:
        time.sleep(0.1)
        assert len(log) <= 4  # three wait, one is in the hands of the thread
        next(reader)
        time.sleep(0.1)
        assert len(log) <= 5


def test_a_reader_is_only_so_many_items_ahead():
    """Small frames weigh little, but each of them is an object with buffers: their number is bounded too."""
    log = []
    with ReadAhead(produced([b"x"] * (4 * MOST_ITEMS), log), len, 2**30) as reader:
        while len(log) <= MOST_ITEMS:  # however long a busy machine takes; one is in the hands of the thread
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(log) == MOST_ITEMS + 1
        assert len(list(reader)) == 4 * MOST_ITEMS


def test_an_item_larger_than_the_bound_passes():
    with ReadAhead(iter([b"x" * 100, b"y"]), len, 1) as reader:
        assert [len(item) for item in reader] == [100, 1]


@pytest.mark.parametrize("make", WRITERS)
def test_writing_keeps_the_order_and_finishes(make):
    seen = []
    with make(seen.append) as writer:
        for item in ITEMS:
            writer.put(item)
        writer.finish()
        assert seen == ITEMS


@pytest.mark.parametrize("make", WRITERS)
def test_an_error_of_the_consumer_reaches_the_producer(make):
    def consume(item):
        if item == ITEMS[3]:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), make(consume) as writer:
        for item in ITEMS:
            writer.put(item)
        writer.finish()


def test_a_writer_is_only_so_many_bytes_behind():
    gate, put = threading.Event(), []
    with WriteBehind(lambda item: gate.wait(), len, 30) as writer:

        def fill():
            for item in ITEMS[:8]:
                writer.put(item)
                put.append(item)

        filler = threading.Thread(target=fill)
        filler.start()
        time.sleep(0.1)
        assert len(put) <= 4
        gate.set()
        filler.join()
        writer.finish()


def test_leaving_by_an_error_drops_what_waits(monkeypatch):
    seen, begun, gate = [], threading.Event(), threading.Event()

    def consume(item):
        seen.append(item)
        begun.set()
        assert gate.wait(60)

    with pytest.raises(KeyboardInterrupt), WriteBehind(consume, len, 100) as writer:
        stop = writer._channel.stop
        monkeypatch.setattr(writer._channel, "stop", lambda: (stop(), gate.set()))  # the first item takes until then
        for item in ITEMS[:5]:
            writer.put(item)
        assert begun.wait(60)
        raise KeyboardInterrupt
    assert seen == ITEMS[:1]


class NeverBegins:
    def __iter__(self):
        raise ValueError("cannot be opened")


class NeverCloses:
    def __init__(self):
        self.items = iter(ITEMS[:2])

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.items)

    def close(self):
        raise ValueError("cannot be closed")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("source", "items"), [(NeverBegins, 0), (NeverCloses, 2)])
def test_an_error_outside_of_the_items_is_no_endless_wait(source, items):
    seen = []
    with ReadAhead(source(), len, 30) as reader, pytest.raises(ValueError, match="cannot be"):
        for item in reader:
            seen.append(item)
    assert seen == ITEMS[:items]
