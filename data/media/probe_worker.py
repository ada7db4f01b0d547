"""The process that probes files for another one, so that a crash of a decoder ends only this process.

It starts in a fraction of a second, since it does not load torch. Requests (paths) and answers are lines of JSON on
standard input and output; what libraries print is dropped.
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
    """Answer requests until standard input ends.

    Args:
        memory_bytes: limit on the address space of this process, beyond which allocations fail; 0: no limit.
        timeout_s: time limit for one file in seconds. A little later the kernel ends this process, even if its parent
            has ended.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    if resource is not None and memory_bytes:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        try:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, most))
        except (ValueError, OSError):  # the limit is lower already, or the system has none
            pass
    _say(answers, {"ready": True})
    for line in sys.stdin:
        if hasattr(signal, "alarm"):
            signal.alarm(math.ceil(timeout_s) + 1)
        _say(answers, answer(json.loads(line)))
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def answer(path: str) -> dict:
    """Probe a file. Returns the facts or the error, in a form that JSON can store."""
    try:
        return {"probe": asdict(probe(path))}
    except MediaError as error:
        return {"error": str(error)}


def _say(answers: TextIO, message: dict[str, object]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()
