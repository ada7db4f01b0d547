"""One process of a job: its rank, its device, and how the job ends when a process fails.

A program enters `process_group(...)` once. Under torchrun (or another launcher that sets RANK, WORLD_SIZE, MASTER_ADDR
and MASTER_PORT), this joins the job. Without a launcher, the job has one process, and nothing is initialised.
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

from common.distributed.failures import RefusedRequest, first_line, report_failure
from common.distributed.job import job_id
from common.distributed.timeout import TIMEOUT_S
from common.distributed.watchdog import Watchdog
from common.logger import get_logger

logger = get_logger(__name__)

ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
BROADCAST, GATHERED = "broadcast", "gathered"
POLL_S = 0.2

# For each kind of device: a function that counts the devices, and advice if there are none.
VISIBLE: dict[str, tuple[Callable[[], int], str]] = {
    "cuda": (lambda: torch.cuda.device_count() if torch.cuda.is_available() else 0, "check nvidia-smi"),
    "mps": (lambda: int(torch.backends.mps.is_available()), "install PyTorch's build for Macs with Apple silicon"),
    "xpu": (lambda: torch.xpu.device_count() if torch.xpu.is_available() else 0, "install PyTorch's build for XPU"),
}
NAMES = {"cuda": "CUDA", "mps": "Apple MPS", "xpu": "Intel XPU"}


class LauncherError(ValueError):
    """The launcher's variables are wrong, or lead to no job. No other process can report it, so each one does."""


@dataclass(frozen=True)
class Process:
    """One process of a job."""

    rank: int  # number of this process in the job
    world: int  # number of processes in the job
    local_rank: int  # number of this process on its machine
    device: torch.device  # the device on which this process computes
    backend: str | None  # "gloo" or "nccl"; None without a launcher
    attempt: int  # number of restarts of the job so far
    timeout_s: float  # seconds without progress after which the job fails
    store: dist.Store | None = None  # key-value store of all processes; None without a launcher
    watchdog: Watchdog | None = field(default=None, repr=False)
    local_world: int = 1  # number of processes on this machine

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0, which writes logs and shared files for all processes."""
        return self.rank == 0

    def alive(self, activity: str) -> None:
        """Report progress. If no report follows within the timeout, the watchdog ends the job and names `activity`."""
        if self.watchdog is not None:
            self.watchdog.alive(activity)

    def barrier(self) -> None:
        """Wait for every process, at most for the timeout."""
        if self.world > 1:
            with self.waiting("the other processes"):
                dist.barrier(device_ids=[self.device.index] if self.backend == "nccl" else None)

    def broadcast_from_leader(self, make: Callable[[], Any]) -> Any:
        """Call `make` on the leader, and return its result on every process. May be called once per job.

        Args:
            make: called on the leader only; its result must be possible in JSON.
        """
        if self.world == 1:
            return make()
        assert self.store is not None, "a job of several processes has a store"
        if self.is_leader:
            self.store.set(BROADCAST, json.dumps(make()))
        while not self.store.check([BROADCAST]):  # no time limit: if the first process hangs, its watchdog ends it
            self.alive("waiting for the first process")
            time.sleep(POLL_S)
        return json.loads(self.store.get(BROADCAST))

    def gather_on_leader(self, value: Any, about: str) -> list[Any] | None:
        """Gather the values of all processes, in the order of their ranks, on the leader; returns None on others.

        Args:
            value: a value that JSON can hold.
            about: a name for it, which may be used once per job.
        """
        if self.world == 1:
            return [value]
        assert self.store is not None, "a job of several processes has a store"
        keys = [f"{GATHERED}/{about}/{rank}" for rank in range(self.world)]
        self.store.set(keys[self.rank], json.dumps(value))
        if not self.is_leader:
            return None
        while not self.store.check(keys):  # if a process hangs, its watchdog ends it
            self.alive("waiting for what the other processes say")
            time.sleep(POLL_S)
        return [json.loads(self.store.get(key)) for key in keys]

    def waiting(self, on: str) -> AbstractContextManager[None]:
        """A context for a call that waits for other processes; in it the watchdog does not end this process."""
        return nullcontext() if self.watchdog is None else self.watchdog.waiting(on)

    def group(self, size: int) -> tuple[int, int]:
        """The number of this process's group of `size` consecutive ranks, from 0, and the number of groups.

        Raises:
            ValueError: `size` does not divide the number of processes.
        """
        self.check_divides(size)
        return self.rank // size, self.world // size

    def check_divides(self, sp_size: int) -> None:
        """Raise ValueError unless `sp_size` divides the number of processes."""
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
    """Join the job that a launcher started, and leave it at the end. Without a launcher, the job has one process.

    Args:
        device: see `choose_device`.
        timeout_s: seconds without progress of a process, or of waiting for one, after which the job fails.
        backend: "gloo" or "nccl"; None: nccl if every process has its own GPU, else gloo.
    Raises:
        LauncherError: variables of the launcher are missing or wrong, or no job is found at their address.
        RuntimeError: processes on GPUs need NCCL, and it is not available.
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
    # The watchdog ends a process that hangs, and names it, shortly before processes that wait for it time out.
    watchdog = Watchdog(rank, 0.8 * timeout_s)
    store = find_job(rank, world, timeout_s)
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
            process.barrier()  # rank 0 holds the store and must not leave while others use it
        except BaseException as error:
            report_failure(error, process)
            raise  # the group is not destroyed: other ranks may hang in it, and the launcher ends them
        dist.destroy_process_group()


def find_job(rank: int, world: int, timeout_s: float) -> dist.Store:
    """The store at MASTER_ADDR:MASTER_PORT, which rank 0 opens; LauncherError if there is none within the timeout."""
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
    except dist.DistError as error:
        raise LauncherError(
            f"rank {rank} of {world} found no job at MASTER_ADDR={os.environ['MASTER_ADDR']} "
            f"MASTER_PORT={os.environ['MASTER_PORT']} within {timeout_s:g} s ({first_line(error)}); "
            "check the address and that every process has started, or start the job with torchrun"
        ) from error
    return store


def read_launcher() -> tuple[int, int, int, int] | None:
    """(rank, world, local rank, local world) from the environment; None without a launcher.

    Raises:
        LauncherError: a variable is missing or wrong.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    if missing:
        raise LauncherError(f"a job was announced, but {', '.join(missing)} not set; start it with torchrun")
    rank, world, port = (read_number(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if not 0 <= rank < world:
        raise LauncherError(f"RANK={rank} does not fit WORLD_SIZE={world}; start the job with torchrun")
    if not 0 <= port < 65536:
        raise LauncherError(f"MASTER_PORT={port} is no port; start the job with torchrun")
    # If these are missing (plain srun), each process is assumed to have its own machine.
    return rank, world, read_number("LOCAL_RANK", "0"), read_number("LOCAL_WORLD_SIZE", "1")


def read_number(name: str, default: str = "") -> int:
    """The whole number in a variable of the launcher; LauncherError if it holds something else."""
    text = os.environ.get(name, default)
    try:
        return int(text)
    except ValueError as error:
        raise LauncherError(f"{name}={text!r} is not a whole number; start the job with torchrun") from error


def choose_device(device: str | torch.device, local_rank: int) -> torch.device:
    """Choose the device of one process. The processes of a machine are distributed over its GPUs.

    Args:
        device: "auto" (a CUDA or ROCm GPU if there is one, else the CPU), "cpu", "cuda", "xpu" (Intel) or "mps"
            (Apple). The number of a GPU may follow, as in "cuda:1".
        local_rank: the number of the process on its machine.
    Raises:
        RuntimeError: the device is unknown, or PyTorch does not find it; the message says what to do.
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
    """Choose nccl if every process of this machine has its own GPU, and gloo on CPUs or if processes share GPUs."""
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
