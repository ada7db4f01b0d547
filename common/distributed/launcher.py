"""Starts the processes of a job on one machine, waits for them, and ends with what they end with.

torchrun does this for several machines and with restarts; whatever its workers end with, it ends with 1 and prints a
summary. Nothing here imports PyTorch.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from types import FrameType

from common.signals import NAMES

MARK = "SEEDVR_LAUNCHER"  # in the environment of those that were started here
POLL_S = 0.05
PATIENCE_S = 30.0  # how long the others may take to end by themselves once one has failed
GRACE_S = 10.0  # from the request to end to the end


def launch(command: Sequence[str], count: int) -> int:
    """Run a command in so many processes that form one job.

    A signal is handed on to all of them. When one fails, the others have `PATIENCE_S` to find out and end; then they
    are ended.

    Returns:
        0 when all end with 0; else what the first one that failed ended with, 128 and the number of a signal that
        ended it.
    """
    port = free_port()
    started: list[subprocess.Popen[bytes]] = []
    with _handed_on(started):
        try:
            for rank in range(count):
                environment = os.environ | environment_of(rank, count, port)
                started.append(subprocess.Popen(command, env=environment))
            return _wait(started)
        finally:
            _end(started)


def environment_of(rank: int, count: int, port: int) -> dict[str, str]:
    """What tells a process which of the job's it is; and its share of the cores, where nothing else is asked for."""
    told: dict[str, object] = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, MARK: os.getpid()}
    if "OMP_NUM_THREADS" not in os.environ:
        told["OMP_NUM_THREADS"] = max((os.cpu_count() or 1) // count, 1)
    return {name: str(value) for name, value in told.items()}


def free_port() -> int:
    """A port that nobody listens to at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> int:
    first, deadline = 0, None
    while True:
        codes = [process.poll() for process in started]
        failed = [code for code in codes if code]
        if failed and not first:
            first, deadline = failed[0], time.monotonic() + PATIENCE_S
        if None not in codes or (deadline is not None and time.monotonic() > deadline):
            return 128 - first if first < 0 else first
        time.sleep(POLL_S)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """End those that still run: with a word first, which lets them tidy up."""
    running = [process for process in started if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + GRACE_S
    for process in running:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _handed_on:
    """A block in which signals to this process go to the processes that it started, which decide what they mean."""

    def __init__(self, started: Sequence[subprocess.Popen[bytes]]) -> None:
        self.started = started

    def __enter__(self) -> None:
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        caught = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._hand_on) for number in caught}

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(number)
