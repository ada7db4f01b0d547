"""The process that probes files for another one: a path in, a line out. A crash of a decoder ends only this process.

Starts in a fraction of a second, since nothing here loads torch. Requests and answers are lines of JSON on standard
input and output; what libraries print is dropped.
"""

import json
import math
import os
import signal
import sys
from dataclasses import asdict
from typing import TextIO

from data.media.errors import MediaError
from data.media.probe import probe

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]


def serve(memory_bytes: int, timeout_s: float) -> None:
    """Answer until standard input ends.

    Args:
        memory_bytes: address space of this process; an allocation beyond it raises MemoryError. 0: no limit.
        timeout_s: the kernel ends this process when one file takes longer, even if its parent is gone by then.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    if resource is not None and memory_bytes:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        try:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, most))
        except (ValueError, OSError):  # less is allowed already, or the system has no such limit
            pass
    _say(answers, {"ready": True})
    for line in sys.stdin:
        if hasattr(signal, "alarm"):
            signal.alarm(math.ceil(timeout_s) + 1)
        _say(answers, answer(json.loads(line)))
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def answer(path: str) -> dict:
    """The probe of a file, or its error, as JSON can carry it."""
    try:
        return {"probe": asdict(probe(path))}
    except MediaError as error:
        return {"error": str(error)}


def _say(answers: TextIO, message: dict[str, object]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()
