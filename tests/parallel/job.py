"""A job for torchrun, of which one rank fails in the way that is asked for: `python job.py FAILURE FOLDER`."""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from common.logger import set_up_logging

TIMEOUT_S = 20.0  # also for starting up, on a busy machine
FILES = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0}
FAILS_AT = "c"


def fail(failure: str) -> None:
    if failure == "raises":
        raise ValueError("the file is upside down")
    if failure == "hangs":
        time.sleep(1000)
    if failure in ("is killed", "is killed once"):
        os.kill(os.getpid(), signal.SIGKILL)


def main(failure: str, folder: Path) -> None:
    set_up_logging()
    with process_group("cpu", timeout_s=TIMEOUT_S) as process:
        parallel = Parallel(process, sp_size=process.world)
        for name in parallel.files(list(FILES), cost=FILES.get, journal=folder):
            if parallel.rank == 1 and name == FAILS_AT and (failure != "is killed once" or process.attempt == 0):
                fail(failure)
            process.barrier()  # a step that needs everybody
            if parallel.is_leader:
                with (folder / name).open("a") as file:
                    file.write(f"attempt {process.attempt}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
