"""Tells once for a whole job why its start is refused. Does not import PyTorch.

Under torchrun the sentence is followed by torchrun's own summary, which no program can leave out, since torchrun prints
it after all processes have ended. Its last line is what a process that failed has written into its error file; without
one it advises to record a traceback. So the first process writes the sentence there, and the others wait until torchrun
ends them, as it does when one has failed: then it lists one failure and not as many as there are processes.
"""

import argparse
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from common.distributed.job import is_speaker

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # in the environment of processes that torchrun has started
PATIENCE_S = 5.0  # time for the first process to fail with the same refusal, and for torchrun to notice it


class JobParser(argparse.ArgumentParser):
    """A parser for programs that torchrun may start: wrong flags are the same in all processes, and are told once."""

    def error(self, message: str) -> NoReturn:
        if not is_speaker():
            wait_for_end()  # it returns if the first process has said nothing so far, as it is still starting
        leave_for_summary(f"{self.prog}: error: {message}")
        super().error(message)


def tell_refusal(sentence: str, tell: Callable[[str], None]) -> None:
    """Tell why a job ends, from its first process if that ends for the same reason, else from this one.

    Args:
        sentence: what is wrong, and what to do.
        tell: shows it.
    """
    if not is_speaker() and not _has_reported():
        wait_for_end()
    tell(sentence)
    leave_for_summary(sentence)


def leave_for_summary(sentence: str) -> None:
    """Write the sentence to this process's error file, in torchrun's format; nothing without torchrun."""
    if path := os.environ.get(ERROR_FILE):
        more = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(json.dumps({"message": {"message": sentence, "extraInfo": more}}), encoding="utf-8")
        except OSError:  # the sentence has been shown
            return


def wait_for_end() -> None:
    """Under torchrun, wait to be ended by it, without being listed as a failure; return if it does not do so."""
    if ERROR_FILE not in os.environ:
        return
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # torchrun itself exits with 1 all the same
    time.sleep(PATIENCE_S)


def _has_reported() -> bool:
    """Whether this process has recorded a failure of its own (`common.distributed.failures`)."""
    return ERROR_FILE in os.environ and Path(os.environ[ERROR_FILE]).exists()
