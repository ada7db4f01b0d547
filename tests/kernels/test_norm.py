"""The plain norm under autocast, as in training on a GPU; only dtypes are computed, so no GPU is needed."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from common.kernels.norm import rms_norm


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_norm_keeps_its_dtype_where_autocast_would_not(dtype):
    """On CUDA autocast computes norms in float32: queries, keys and all gathers after them would be twice as large."""
    with FakeTensorMode():
        x, weight = torch.empty(5, 3, 16, dtype=dtype, device="cuda"), torch.empty(16, device="cuda")
        torch.set_autocast_enabled("cuda", True)
        try:
            assert rms_norm(x, weight).dtype == rms_norm(x).dtype == dtype
            assert torch.is_autocast_enabled("cuda")
        finally:
            torch.set_autocast_enabled("cuda", False)
