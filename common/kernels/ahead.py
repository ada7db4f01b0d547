"""Compiles kernels before they are needed, several at once, while weights are loaded.

Triton compiles a kernel when it is launched for the first time, one after another, which a first run waits for most of
a minute. Here the networks go once over tensors of the meta device, which costs no memory; every launch on the way
hands its kernel to a pool of threads. Triton keeps the results on disk: later runs only read them.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path

import torch

from common.kernels.triton_support import Kernels, kernels, triton_available
from common.logger import get_logger

logger = get_logger(__name__)

MOST_THREADS = 16
PATIENCE = 2.0  # seconds of waiting without a message


@contextmanager
def compiled_ahead(dry_run: Callable[[], None], device: torch.device, key: str) -> Iterator[None]:
    """Compile what `dry_run` launches on tensors of the meta device while the block runs; all is done when it ends.

    Where own kernels do not run, or Triton cannot compile in threads, nothing happens, nor where this was done before:
    a file in Triton's cache says so. An error of `dry_run` or of the compiler is logged: the launch that needs the
    kernel meets it again, with its own message.

    Args:
        device: that the kernels are for.
        key: says what `dry_run` depends on.
    """
    mode = compile_mode() if device.type == "cuda" and triton_available() else None
    if mode is None:
        yield
        return
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS))
    work = (dry_run, device, mode(pool), key)
    thread = threading.Thread(target=_compile, args=work, name="compile kernels", daemon=True)
    started = time.perf_counter()
    thread.start()
    try:
        yield
        thread.join(PATIENCE)
        if thread.is_alive():
            logger.info("compiling kernels for this GPU, once: later runs find them in Triton's cache")
            thread.join()
            logger.info("kernels compiled, %.0f s after the start", time.perf_counter() - started)
    finally:  # after an error or Ctrl-C nothing is waited for, and what has not begun is given up
        pool.shutdown(wait=False, cancel_futures=True)


def compile_mode() -> type | None:
    """Triton's context in which launches are compiled by an executor; None where this Triton has none."""
    try:
        from triton.runtime._async_compile import AsyncCompileMode
    except ImportError:
        logger.debug("this Triton compiles one kernel after the other")
        return None
    return AsyncCompileMode


def mark_of(key: str, device: torch.device) -> Path:
    """The file that says that kernels were compiled; it goes when Triton's cache is emptied."""
    import triton

    about = [key, torch.cuda.get_device_name(device), triton.__version__, torch.__version__]
    about += [path.read_text() for path in sorted(Path(__file__).parent.glob("*_triton.py"))]
    home = Path(os.environ.get("TRITON_HOME") or Path.home())
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache")
    return folder / f"seedvr-{sha256(repr(about).encode()).hexdigest()}"


def _compile(dry_run: Callable[[], None], device: torch.device, mode: AbstractContextManager[object], key: str) -> None:
    """In a thread of its own: Triton's mode and the choice of kernels are the thread's."""
    try:
        mark = mark_of(key, device)
        if mark.exists():
            return
        with torch.cuda.device(device), mode, kernels(Kernels.AHEAD), torch.no_grad():
            dry_run()
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except Exception as error:  # whatever a compiler raises: a missing kernel is compiled when it is launched
        logger.debug("kernels were not compiled ahead: %s", error, exc_info=error)
