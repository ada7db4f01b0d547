"""One process of a job: its rank, its device, and how the job ends when a process fails.

A program enters `process_group(...)` once. Under torchrun (or anything else that sets RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT) that joins the job; without, it gives the same object for a world of one, and nothing is initialised.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from common.distributed.failures import RefusedRequest, report_failure
from common.distributed.job import job_id
from common.distributed.timeout import TIMEOUT_S
from common.distributed.watchdog import Watchdog
from common.logger import get_logger

logger = get_logger(__name__)

ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
BROADCAST, GATHERED = "broadcast", "gathered"
POLL_S = 0.2

# Functions that count the devices of a kind, and the remedy where there are none.
VISIBLE: dict[str, tuple[Callable[[], int], str]] = {
    "cuda": (lambda: torch.cuda.device_count() if torch.cuda.is_available() else 0, "check nvidia-smi"),
    "mps": (lambda: int(torch.backends.mps.is_available()), "install PyTorch's build for Macs with Apple silicon"),
    "xpu": (lambda: torch.xpu.device_count() if torch.xpu.is_available() else 0, "install PyTorch's build for XPU"),
}
NAMES = {"cuda": "CUDA", "mps": "Apple MPS", "xpu": "Intel XPU"}


@dataclass(frozen=True)
class Process:
    """One process of a job."""

    rank: int  # among all processes
    world: int  # number of all processes
    local_rank: int  # among those on this machine
    device: torch.device  # on which this process computes
    backend: str | None  # "gloo", "nccl", or None in a world of one without a launcher
    attempt: int  # how often the launcher has restarted the job, from 0
    timeout_s: float  # seconds without a report after which the job fails
    store: dist.Store | None = None  # key-value store of all processes; None without a launcher
    watchdog: Watchdog | None = field(default=None, repr=False)
    local_world: int = 1  # number of processes on this machine

    @property
    def is_leader(self) -> bool:
        """Whether this process writes logs and shared files for all: rank 0."""
        return self.rank == 0

    def alive(self, activity: str) -> None:
        """Report progress at every step. After a timeout without, the watchdog ends the job and names `activity`."""
        if self.watchdog is not None:
            self.watchdog.alive(activity)

    def barrier(self) -> None:
        """Wait for every process, at most for the timeout."""
        if self.world > 1:
            with self.waiting("the other processes"):
                dist.barrier(device_ids=[self.device.index] if self.backend == "nccl" else None)

    def broadcast_from_leader(self, make: Callable[[], Any]) -> Any:
        """What `make` returns on the leader, on every process; once for each job.

        Args:
            make: called there only; returns what JSON can hold.
        """
        if self.world == 1:
            return make()
        assert self.store is not None, "a job of several processes has a store"
        if self.is_leader:
            self.store.set(BROADCAST, json.dumps(make()))
        while not self.store.check([BROADCAST]):  # without a limit: the first process's watchdog ends it if it hangs
            self.alive("waiting for the first process")
            time.sleep(POLL_S)
        return json.loads(self.store.get(BROADCAST))

    def gather_on_leader(self, value: Any, about: str) -> list[Any] | None:
        """The values of all processes, in the order of their ranks, on the leader; None on the others.

        Args:
            value: what JSON can hold. about: what it is; each is told once for each job.
        """
        if self.world == 1:
            return [value]
        assert self.store is not None, "a job of several processes has a store"
        keys = [f"{GATHERED}/{about}/{rank}" for rank in range(self.world)]
        self.store.set(keys[self.rank], json.dumps(value))
        if not self.is_leader:
            return None
        while not self.store.check(keys):  # a process that hangs is ended by its own watchdog
            self.alive("waiting for what the other processes say")
            time.sleep(POLL_S)
        return [json.loads(self.store.get(key)) for key in keys]

    def waiting(self, on: str) -> AbstractContextManager[None]:
        """A context around a call that waits for other processes, so that the watchdog does not end this one."""
        return nullcontext() if self.watchdog is None else self.watchdog.waiting(on)

    def group(self, size: int) -> tuple[int, int]:
        """Which group of `size` neighbours this process belongs to, from 0, and how many groups there are.

        Raises:
            ValueError: `size` does not divide the number of processes.
        """
        self.check_divides(size)
        return self.rank // size, self.world // size

    def check_divides(self, sp_size: int) -> None:
        """ValueError unless groups of `sp_size` processes use up the world."""
        if sp_size < 1 or self.world % sp_size:
            fitting = ", ".join(str(n) for n in range(1, self.world + 1) if self.world % n == 0)
            raise ValueError(
                f"sp_size={sp_size} does not divide the {self.world} processes of this job into equal groups; "
                f"use one of {fitting}, or start another number of processes (--gpus, torchrun --nproc-per-node)"
            )


@contextmanager
def process_group(
    device: str | torch.device = "auto", *, timeout_s: float = TIMEOUT_S, backend: str | None = None
) -> Iterator[Process]:
    """Join the job that torchrun launched, and leave it at the end; a world of one when nothing was launched.

    Args:
        device: as for `choose_device`.
        timeout_s: how long a process may be silent, and how long others wait for it, before the job fails.
        backend: "gloo" or "nccl"; None chooses nccl where every process has a GPU of its own, else gloo.
    Raises:
        ValueError: a launcher's environment with variables missing.
        RuntimeError: processes on GPUs and no NCCL.
    """
    launched = read_launcher()
    if launched is None:
        try:
            yield Process(0, 1, 0, choose_device(device, 0), None, 0, timeout_s)
        except RefusedRequest as error:
            logger.error("%s", error)
            raise
        return
    rank, world, local_rank, local_world = launched
    device = choose_device(device, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = backend or choose_backend(device, local_world)
    # A process that hangs is ended, and named, shortly before the processes that wait for it time out.
    watchdog = Watchdog(rank, 0.8 * timeout_s)
    store, *_ = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    # A killed job may be started again on the same port, so keys have the job's id as prefix.
    store = dist.PrefixStore(job_id(), store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if backend == "nccl" else backend,
        store=dist.PrefixStore(f"collectives/{attempt}", store),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=timeout_s),
        device_id=device if backend == "nccl" else None,
    )
    prefixed = dist.PrefixStore(f"program/{attempt}", store)
    process = Process(rank, world, local_rank, device, backend, attempt, timeout_s, prefixed, watchdog, local_world)
    with watchdog if world > 1 else nullcontext():
        try:
            yield process
            process.barrier()  # the store is in rank 0, which must not leave while others use it
        except BaseException as error:
            report_failure(error, process)
            raise  # the group is not destroyed: other ranks may hang in it, and the launcher ends them
        dist.destroy_process_group()


def read_launcher() -> tuple[int, int, int, int] | None:
    """(rank, world, local rank, local world) from the environment; None without a launcher."""
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    if missing:
        raise ValueError(f"a job was announced, but {', '.join(missing)} not set; start it with torchrun")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not 0 <= rank < world:
        raise ValueError(f"RANK={rank} does not fit WORLD_SIZE={world}; start the job with torchrun")
    # Without these (a plain srun), each process is assumed to have a machine of its own.
    return rank, world, int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def choose_device(device: str | torch.device, local_rank: int) -> torch.device:
    """The device of one process: those of a machine are distributed over its GPUs, several on one if there are more.

    Args:
        device: "auto" (a CUDA or ROCm GPU when there is one, else the CPU), "cpu", "cuda", "xpu" (Intel) or "mps"
            (Apple). A GPU's number may follow, as in "cuda:1".
    Raises:
        RuntimeError: an unknown device, or one that PyTorch does not find here; says what to do.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", *VISIBLE):
        raise RuntimeError("a device is auto, cpu, cuda, mps or xpu, or one of several GPUs, such as cuda:1")
    if chosen.type == "cpu":
        return chosen
    count, remedy = VISIBLE[chosen.type]
    index: int | None = chosen.index  # None where the name has no number, which torch's annotation leaves out
    if not (seen := count()):
        raise RuntimeError(f"no {NAMES[chosen.type]} device is visible to PyTorch; use --device cpu, or {remedy}")
    if (index or 0) >= seen:
        raise RuntimeError(f"there is no device {chosen}: PyTorch sees {seen} of its kind, counted from 0")
    if chosen.type != "cuda":
        logger.info("on %s everything is computed by plain PyTorch: own kernels and memory plans are for CUDA", chosen)
    return torch.device(chosen.type, local_rank % seen) if index is None else chosen


def choose_backend(device: torch.device, local_world: int) -> str:
    """nccl where every process of this machine has a GPU of its own; gloo on CPU, and where GPUs are shared."""
    if device.type != "cuda":
        return "gloo"
    if local_world > torch.cuda.device_count():
        logger.warning(
            "%d processes share %d GPU(s): they talk through gloo and the host's memory, which is slow",
            local_world,
            torch.cuda.device_count(),
        )
        return "gloo"
    if not dist.is_nccl_available():
        raise RuntimeError(
            "this PyTorch has no NCCL, which processes on GPUs need to talk to each other; "
            "install a CUDA build of PyTorch for Linux, start one process, or use --device cpu"
        )
    return "nccl"
