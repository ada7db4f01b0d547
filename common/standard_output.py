"""Writes to standard output, whose reader may go before the end, as `head` does after its lines."""

import os
import select
import sys

BROKEN_PIPE = 141  # the exit status of a program that a signal ends because its reader has gone


def write_output(text: str) -> bool:
    """Write to standard output at once. Returns False if its reader has gone.

    Raises:
        OSError: it cannot be written, such as on a full disk.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        silence_output()
        if isinstance(error, BrokenPipeError):
            return False
        raise OSError(f"standard output cannot be written: {error.strerror}") from error
    return True


def reader_has_gone() -> bool:
    """Whether standard output is a pipe whose reader has gone; what was still to be written is dropped then."""
    if not hasattr(select, "poll"):  # Windows
        return False
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    gone = any(events & select.POLLERR for _, events in pipe.poll(0))
    if gone:
        silence_output()
    return gone


def silence_output() -> None:
    """Drop what is still to be written: Python writes it when it ends, and would fail again, with a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
