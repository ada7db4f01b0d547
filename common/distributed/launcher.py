"""Starts the processes of a job on one machine, waits for them, and returns their exit code.

torchrun supports several machines and restarts, but always exits with 1 if a worker fails, and prints a summary. This
module does not import PyTorch.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from types import FrameType

from common.signals import NAMES

MARK = "SEEDVR_LAUNCHER"  # in the environment of processes started here
PORTS = (10_000, 32_000)  # below those that Linux, macOS and Windows give out
POLL_S = 0.05
PATIENCE_S = 30.0  # how long other processes may take to end by themselves after one has failed
GRACE_S = 10.0  # time between SIGTERM and SIGKILL


def launch(command: Sequence[str], count: int) -> int:
    """Run a command in `count` processes that form one job.

    Signals are forwarded to all processes. When one fails, the others have `PATIENCE_S` to end by themselves; then they
    are terminated.

    Returns:
        0 if all exit with 0; else the exit code of the first process that failed, or 128 plus the number of the signal
        that ended it.
    """
    port = free_port()
    started: list[subprocess.Popen[bytes]] = []
    with _forwarded_signals(started):
        try:
            for rank in range(count):
                environment = os.environ | environment_of(rank, count, port)
                started.append(subprocess.Popen(command, env=environment))
            return _wait(started)
        finally:
            _end(started)


def environment_of(rank: int, count: int, port: int) -> dict[str, str]:
    """The environment of one process: its rank, and its number of threads unless OMP_NUM_THREADS is set."""
    environment: dict[str, object] = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, MARK: os.getpid()}
    if "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = max((os.cpu_count() or 1) // count, 1)
    return {name: str(value) for name, value in environment.items()}


def free_port() -> int:
    """Find a free port outside of the range from which systems give ports to whoever asks for any, as gloo does.

    So nobody takes it by chance before the job opens it.
    """
    while True:
        port = random.SystemRandom().randrange(*PORTS)  # other processes may have the same seed
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
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
    """End the processes that are still running: with SIGTERM, so that they can clean up, and then with SIGKILL."""
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


class _forwarded_signals:
    """A context that forwards signals of this process to the processes that it started."""

    def __init__(self, started: Sequence[subprocess.Popen[bytes]]) -> None:
        self.started = started

    def __enter__(self) -> None:
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        caught = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._forward) for number in caught}

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(number)
