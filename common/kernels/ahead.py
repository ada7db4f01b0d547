"""Compiles Triton kernels ahead of their first launch, several at once, while weights are loaded.

Triton compiles each kernel at its first launch, one after another, so a first run waits most of a minute. Here the
networks run once on tensors of the meta device, which takes no memory, and every launch hands its kernel to a pool of
threads. Triton caches compiled kernels on disk, so later runs only read them.
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
PATIENCE = 2.0  # seconds to wait before a message is logged


@contextmanager
def compiled_ahead(dry_run: Callable[[], None], device: torch.device, key: str) -> Iterator[None]:
    """Compile the kernels that `dry_run` launches, in threads while the block runs. Its end waits for the compiler.

    Nothing is compiled if the Triton kernels are not used on `device`, if this Triton cannot compile in threads, or if
    a marker file in Triton's cache (`mark_of`) says that the kernels exist. An error of `dry_run` or of the compiler
    is only logged, because the launch that needs the kernel raises it again.

    Args:
        dry_run: runs the networks on tensors of the meta device.
        device: the device for which kernels are compiled.
        key: identifies everything that `dry_run` depends on.
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
    finally:  # after an error or Ctrl-C, do not wait, and cancel kernels whose compilation has not begun
        pool.shutdown(wait=False, cancel_futures=True)


def compile_mode() -> type | None:
    """Triton's context manager that compiles launches in an executor; None if this Triton does not have it."""
    try:
        from triton.runtime._async_compile import AsyncCompileMode
    except ImportError:
        logger.debug("this version of Triton cannot compile kernels in threads")
        return None
    return AsyncCompileMode


def mark_of(key: str, device: torch.device) -> Path:
    """The marker file of compiled kernels. It is in Triton's cache, so emptying the cache removes it too."""
    import triton

    about = [key, torch.cuda.get_device_name(device), triton.__version__, torch.__version__]
    about += [path.read_text() for path in sorted(Path(__file__).parent.glob("*_triton.py"))]
    home = Path(os.environ.get("TRITON_HOME") or Path.home())
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache")
    return folder / f"seedvr-{sha256(repr(about).encode()).hexdigest()}"


def _compile(dry_run: Callable[[], None], device: torch.device, mode: AbstractContextManager[object], key: str) -> None:
    """Compile the kernels. It runs in a separate thread, because `mode` and the choice of kernels are per thread."""
    try:
        mark = mark_of(key, device)
        if mark.exists():
            return
        with torch.cuda.device(device), mode, kernels(Kernels.AHEAD), torch.no_grad():
            dry_run()
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except Exception as error:  # compilers raise many types; a missing kernel is compiled at its launch
        logger.debug("kernels were not compiled ahead: %s", error, exc_info=error)
