"""Runs a function in several processes that form one job, the way torchrun would start them, but cheaply."""

import gc
import os
import traceback
from collections.abc import Callable

import torch
import torch.multiprocessing as multiprocessing

from common.distributed.launcher import free_port
from common.distributed.process import Process, process_group

TIMEOUT_S = 60.0


def run_ranks(world: int, work: Callable[[Process], None], fresh: bool = False) -> None:
    """Call `work(process)` in `world` processes; the first failure is raised here with its traceback.

    Args:
        fresh: of a server that has computed nothing, for work that goes backward: where a GPU is visible, whoever has
            once gone backward cannot fork processes that do, as autograd keeps a thread for every device. `work` is
            pickled then. Otherwise processes are forked here and share what the caller has computed.
    """
    method = "forkserver" if fresh else "fork"
    if fresh:
        torch.multiprocessing.get_context(method).set_forkserver_preload(["torch", "torch.distributed.fsdp"])
    gc.collect()  # a decoder that a forked process frees would wait for threads that it does not have
    multiprocessing.start_processes(_rank, args=(world, free_port(), work), nprocs=world, start_method=method)


def _rank(rank: int, world: int, port: int, work: Callable[[Process], None]) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    launcher = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    os.environ |= {name: str(value) for name, value in launcher.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with process_group("cpu", timeout_s=TIMEOUT_S) as process, torch.no_grad():
            work(process)
    except BaseException:
        traceback.print_exc()
        raise
