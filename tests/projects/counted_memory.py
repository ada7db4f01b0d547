"""Counts the bytes that the VAE holds while it runs on the meta device, with kernels that compute nothing.

No memory is taken, so clips have their real sizes.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from unittest.mock import MagicMock

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import common.kernels

KERNELS = [f"{name}_triton" for name in ("frame_norm", "rgb_conv", "softmax", "stream", "window_qkv", "winograd")]


class Held(TorchDispatchMode):
    """`most`: the most bytes that results of operations held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        result = operator(*arguments, **(keywords or {}))
        storages = [x.untyped_storage() for x in tree_leaves(result) if isinstance(x, Tensor)]
        self._made |= {storage._cdata: (StorageWeakRef(storage), storage.nbytes()) for storage in storages}
        self._made = {key: (seen, size) for key, (seen, size) in self._made.items() if not seen.expired()}
        self.most = max(self.most, sum(size for _, size in self._made.values()))
        return result


def without_kernels(monkeypatch) -> None:
    """From here on kernels are launched for tensors of the meta device and do nothing, with or without Triton."""
    if importlib.util.find_spec("triton") is None:
        load_without_triton(monkeypatch)
    for name in KERNELS:
        monkeypatch.setattr(f"common.kernels.{name}.launch", lambda *_, **__: None)
    monkeypatch.setattr("common.kernels.triton_support.triton_available", lambda: True)


def load_without_triton(monkeypatch) -> None:
    """Load the kernels' modules with a stand-in for Triton; the test's end forgets them."""
    triton = ModuleType("triton")
    triton.jit = lambda function=None, **_: function or (lambda decorated: decorated)
    triton.cdiv, triton.next_power_of_2 = lambda a, b: -(-a // b), lambda n: 1 << (n - 1).bit_length()
    triton.language = MagicMock()
    with monkeypatch.context() as only_here:  # torch looks for Triton, too
        only_here.setitem(sys.modules, "triton", triton)
        only_here.setitem(sys.modules, "triton.language", triton.language)
        loaded = {name: importlib.import_module(f"common.kernels.{name}") for name in KERNELS}
    for name, module in loaded.items():
        del sys.modules[module.__name__]
        delattr(common.kernels, name)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(common.kernels, name, module, raising=False)


def most_held(run: Callable[[Tensor], object], inputs: Iterable[Tensor]) -> int:
    """The most bytes that `run` holds in the last of several calls, with what the ones before left behind."""
    with Held() as held:
        for x in inputs:
            held.most = 0
            run(x)
    return held.most
