"""Tone curves between HDR and the SDR that the networks take: tables over 16 bits, the same on every device.

PQ: the curve of BT.2446 method A is applied to R, G and B separately, so that its inverse is exact; the primaries
stay. Light above the peak of the curve is mapped to the last twentieth of the range, linearly in PQ codes, so that no
code of PQ is lost.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.colour.curves import (
    HLG_GAMMA,
    HLG_PEAK,
    PQ_PEAK,
    SDR_GAMMA,
    hdr_to_sdr,
    hlg_to_scene,
    light_to_pq,
    pq_to_light,
)

MOST = 65535
BELOW_PEAK = 0.95  # of the range, where the peak is not the end of PQ
BT2020_LUMA = (0.2627, 0.6780, 0.0593)
# Light of BT.2020 as light of BT.709 (ITU-R BT.2087, the inverse of its matrix M2).
BT2020_TO_BT709 = ((1.660491, -0.587641, -0.072850), (-0.124550, 1.132900, -0.008349), (-0.018151, -0.100579, 1.118730))


def pq_to_tone(rgb: Tensor, peak: int) -> Tensor:
    """Codes of PQ -> SDR of the same primaries: float32 of any shape, in [0, 1]."""
    return _looked_up(rgb, _table(_pq_to_tone_curve, peak, rgb.device))


def tone_to_pq(words: Tensor, peak: int) -> Tensor:
    """The inverse of `pq_to_tone`: int32 in 0..65535 -> int32 in 0..65535 of PQ."""
    return _table(_tone_to_pq_curve, peak, words.device)[words]


def hlg_to_tone(rgb: Tensor) -> Tensor:
    """Codes of HLG [..., 3, H, W] -> SDR of the same primaries, as a display of 1000 nits shows them."""
    scene = _looked_up(rgb, _table(_hlg_to_scene_curve, HLG_PEAK, rgb.device))
    red, green, blue = scene.unbind(-3)
    luma = red * BT2020_LUMA[0] + green * BT2020_LUMA[1] + blue * BT2020_LUMA[2]
    shown = scene * luma.clamp_(min=1e-9).pow_(HLG_GAMMA - 1).unsqueeze(-3)  # BT.2100, OOTF
    return _looked_up(shown.clamp_(0, 1).pow_(1 / SDR_GAMMA), _table(_hdr_to_sdr_curve, HLG_PEAK, rgb.device))


def bt2020_to_bt709(rgb: Tensor) -> Tensor:
    """SDR of the primaries of BT.2020 [..., 3, H, W] -> of BT.709; colours outside are clipped."""
    red, green, blue = rgb.clamp(0, 1).pow_(SDR_GAMMA).unbind(-3)
    rows = [r * red + g * green + b * blue for r, g, b in BT2020_TO_BT709]
    return torch.stack(rows, dim=-3).clamp_(0, 1).pow_(1 / SDR_GAMMA)


def words_of(unit: Tensor) -> Tensor:
    """Floats, clipped to [0, 1] -> int32 in 0..65535, rounded."""
    return unit.clamp(0, 1).mul_(MOST).round_().to(torch.int32)


def _looked_up(unit: Tensor, table: Tensor) -> Tensor:
    return table[words_of(unit)]


def tone_of_pq(codes: NDArray[np.float64], peak: int) -> NDArray[np.float64]:
    """PQ codes in [0, 1] -> SDR in [0, 1], float64; see the module's docstring."""
    if peak >= PQ_PEAK:
        return hdr_to_sdr((pq_to_light(codes) / PQ_PEAK) ** (1 / SDR_GAMMA), PQ_PEAK)
    last = light_to_pq(np.array(peak, np.float64))
    below = hdr_to_sdr((pq_to_light(np.minimum(codes, last)) / peak) ** (1 / SDR_GAMMA), peak)
    return BELOW_PEAK * below + (1 - BELOW_PEAK) * np.maximum(codes - last, 0) / (1 - last)


@cache
def _table(curve: Callable[[NDArray[np.float64], int], NDArray[np.generic]], peak: int, device: torch.device) -> Tensor:
    """A curve at all 65536 words. Kept, since each frame of a clip needs the same one."""
    return torch.from_numpy(curve(np.arange(MOST + 1) / MOST, peak)).to(device)


def _pq_to_tone_curve(codes: NDArray[np.float64], peak: int) -> NDArray[np.float32]:
    return tone_of_pq(codes, peak).astype(np.float32)


def _tone_to_pq_curve(codes: NDArray[np.float64], peak: int) -> NDArray[np.int32]:
    """The inverse of `tone_of_pq`, in words."""
    return (np.interp(codes, tone_of_pq(codes, peak), codes) * MOST).round().astype(np.int32)


def _hlg_to_scene_curve(codes: NDArray[np.float64], _peak: int) -> NDArray[np.float32]:
    return hlg_to_scene(codes).astype(np.float32)


def _hdr_to_sdr_curve(codes: NDArray[np.float64], peak: int) -> NDArray[np.float32]:
    return hdr_to_sdr(codes, peak).astype(np.float32)
