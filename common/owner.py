"""Identifies the process that is writing a file, and tells whether it is still running.

A process number alone is not enough, because numbers are reused, and machines or containers that share a folder use the
same numbers. The start time and the identity of the machine distinguish them.
"""

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """The identity of a process.

    machine: host, boot and process namespace in one word.
    started: start time in clock ticks since boot; "" if unknown.
    """

    host: str
    machine: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_local(self) -> bool:
        """Whether this machine can tell if the process is running."""
        return self.machine == machine()

    @property
    def alive(self) -> bool:
        """Whether the process is running; only for a local process with a recorded start time."""
        return process_started(self.pid) == self.started

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def this_process() -> Owner:
    """The identity of this process."""
    return Owner(socket.gethostname(), machine(), os.getpid(), process_started(os.getpid()))


def read_owner(text: bytes) -> Owner | None:
    """Read a recorded owner; None if the record is empty or damaged."""
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return None


def machine() -> str:
    """A word that identifies this boot of this machine and this container, within which process numbers are unique."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        pass
    return " ".join(parts)


def process_started(pid: int) -> str:
    """The start time of a process on this machine, in clock ticks since boot; "" if it has ended or is unknown."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    # The name, in brackets, may itself hold brackets and spaces. Field 3 follows it; field 22 is the start time.
    fields = status[status.rindex(b")") + 2 :].split()
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
