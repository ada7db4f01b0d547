"""Which process made a file, and is it still alive? Recorded beside files in the making.

A process number alone is not enough: numbers are used again, and two machines or containers that share a folder have
the same ones. The start time and the identity of the machine tell them apart.
"""

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """A process. machine: host, boot and process namespace in one word. started: clock ticks since boot, "" unknown."""

    host: str
    machine: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_local(self) -> bool:
        """Whether this machine can tell if the process is alive."""
        return self.machine == machine()

    @property
    def alive(self) -> bool:
        """Whether the process still runs; only for a local one whose start time is recorded."""
        return process_started(self.pid) == self.started

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def this_process() -> Owner:
    """The owner of what this process makes."""
    return Owner(socket.gethostname(), machine(), os.getpid(), process_started(os.getpid()))


def read_owner(text: bytes) -> Owner | None:
    """The recorded owner; None where the record is empty or damaged."""
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return None


def machine() -> str:
    """A word for this machine since it was started, and this container: process numbers are unique within it."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        pass
    return " ".join(parts)


def process_started(pid: int) -> str:
    """When a process of this machine was started, in clock ticks since boot; "" where it is gone or not told."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    # The name, in brackets, may itself hold brackets and spaces. Field 3 follows it; field 22 is the start time.
    fields = status[status.rindex(b")") + 2 :].split()
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
