"""Probes files in a separate process with limits on time and memory, so that no file can stop the run.

If a decoder crashes or hangs, only that process ends. The file gets an error sentence, and the next one a new process.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.logger import get_logger
from data.media.errors import MediaError, shown
from data.media.probe import Probe, probe

logger = get_logger(__name__)

ROOT = Path(__file__).resolve().parents[__name__.count(".")]  # the folder of the outermost package
TIMEOUT_S, MEMORY_BYTES = 30.0, 4 << 30
FEW_THREADS = {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # saves address space
START_S = 60.0  # time limit for loading Python, PyAV and Pillow, for slow disks


class ProbeProcess:
    """One process that probes files.

    Args:
        timeout_s: time limit for one file in seconds.
        memory_bytes: limit on the address space of the process.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, timeout_s: float, memory_bytes: int) -> None:
        self.timeout_s = timeout_s
        command = [sys.executable, "-P", "-c", self.program(), str(ROOT), str(memory_bytes), str(timeout_s)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C interrupts only the run, which then closes this process
            env={**os.environ, **FEW_THREADS},
        )
        self.unread = b""
        if self._answer(START_S) is None:
            self.close()
            raise OSError("the probing process did not start")

    def program(self) -> str:
        """The Python code that the process runs. Its arguments are the import root, `memory_bytes` and `timeout_s`."""
        return (
            f"import sys; sys.path.insert(0, sys.argv[1]); from {__package__}.probe_worker import serve; "
            "serve(int(sys.argv[2]), float(sys.argv[3]))"
        )

    def probe(self, path: Path) -> Probe | MediaError:
        """Probe one file. If the process crashes or takes too long, it is closed, see `alive`."""
        assert self.process.stdin is not None, "it is a pipe"
        try:
            self.process.stdin.write(json.dumps(str(path.absolute())).encode() + b"\n")
            self.process.stdin.flush()
            answer = self._answer(self.timeout_s)
        except BrokenPipeError:
            answer = {}
        if answer is None:
            self.close()
            return MediaError(
                f"{shown(path)}: its decoder took longer than {self.timeout_s:g} s; leave it out, or convert it with "
                "another program"
            )
        if not answer:
            self.close()
            how = _how_it_ended(self.process.returncode)
            return MediaError(
                f"{shown(path)}: its decoder died ({how}); the file is damaged or malicious; get another copy"
            )
        if "error" in answer:
            return MediaError(answer["error"])
        fields: dict[str, Any] = answer["probe"]
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return Probe(**fields)

    @property
    def alive(self) -> bool:
        """Whether the process can probe another file."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the process; it is killed unless it ends by itself within 0.1 s."""
        if self.process.poll() is None:
            try:
                self.process.wait(0.1)  # it may be ending now, and its own exit code says more than that of our signal
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None, "both are pipes"
            try:
                pipe.close()
            except BrokenPipeError:
                pass

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """The next answer of the process; {} if the process has ended, None if the time is over."""
        assert self.process.stdout is not None, "it is a pipe"
        deadline, output = time.monotonic() + seconds, self.process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while b"\n" not in self.unread:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    return None
                chunk = os.read(output, 1 << 16)
                if not chunk:
                    return {}
                self.unread += chunk
        line, self.unread = self.unread.split(b"\n", 1)
        return json.loads(line)


def probe_all(
    paths: Iterable[Path],
    *,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
    start: type[ProbeProcess] = ProbeProcess,
) -> Iterator[tuple[Path, Probe | MediaError]]:
    """Probe files one after the other in a separate process.

    If no process can be started (in a sandbox, for instance), files are probed in this process.

    Args:
        paths: the files.
        timeout_s: time limit for one file in seconds.
        memory_bytes: limit on the address space of the process.
        start: the class of the process.

    Yields:
        Every path, with its facts or with the reason why it cannot be read.
    """
    process: ProbeProcess | None = None
    possible = True
    try:
        for path in map(Path, paths):
            if possible and (process is None or not process.alive):
                try:
                    process = start(timeout_s, memory_bytes)
                except OSError as error:
                    logger.debug("files are probed in this process (%s)", error)
                    possible = False
            yield path, process.probe(path) if possible and process is not None else _probe_here(path)
    finally:
        if process is not None:
            process.close()


def _probe_here(path: Path) -> Probe | MediaError:
    try:
        return probe(path)
    except MediaError as error:
        return error


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
