"""Tone curves between HDR and the SDR that the networks take, as tables over 16-bit values, the same on every device.

PQ: the tone curve of BT.2446, method A, is applied to R, G and B separately, so that it can be inverted; the primaries
stay. Codes above the peak of the curve are mapped linearly to the last twentieth of the range, so that no code of PQ is
lost.
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
BELOW_PEAK = 0.95  # the part of the SDR range for codes up to the peak, if the peak is below 10000 nits
BT2020_LUMA = (0.2627, 0.6780, 0.0593)
# Linear light of BT.2020 to linear light of BT.709 (the inverse of matrix M2 of ITU-R BT.2087).
BT2020_TO_BT709 = ((1.660491, -0.587641, -0.072850), (-0.124550, 1.132900, -0.008349), (-0.018151, -0.100579, 1.118730))


def pq_to_tone(rgb: Tensor, peak: int) -> Tensor:
    """Codes of PQ -> SDR of the same primaries: float32 of any shape in [0, 1]; `peak` is in nits."""
    return _looked_up(rgb, _table(_pq_to_tone_curve, peak, rgb.device))


def tone_to_pq(words: Tensor, peak: int) -> Tensor:
    """The inverse of `pq_to_tone`: int32 in 0..65535 (SDR) -> int32 in 0..65535 (codes of PQ); `peak` is in nits."""
    return _table(_tone_to_pq_curve, peak, words.device)[words]


def hlg_to_tone(rgb: Tensor) -> Tensor:
    """Codes of HLG, float32 [..., 3, H, W] in [0, 1] -> SDR of the same primaries, for a display of 1000 nits."""
    scene = _looked_up(rgb, _table(_hlg_to_scene_curve, HLG_PEAK, rgb.device))
    red, green, blue = scene.unbind(-3)
    luma = red * BT2020_LUMA[0] + green * BT2020_LUMA[1] + blue * BT2020_LUMA[2]
    shown = scene * luma.clamp_(min=1e-9).pow_(HLG_GAMMA - 1).unsqueeze(-3)  # BT.2100, OOTF
    return _looked_up(shown.clamp_(0, 1).pow_(1 / SDR_GAMMA), _table(_hdr_to_sdr_curve, HLG_PEAK, rgb.device))


def bt2020_to_bt709(rgb: Tensor) -> Tensor:
    """SDR of BT.2020 primaries [..., 3, H, W] in [0, 1] -> SDR of BT.709; colours out of gamut are clipped."""
    red, green, blue = rgb.clamp(0, 1).pow_(SDR_GAMMA).unbind(-3)
    rows = [r * red + g * green + b * blue for r, g, b in BT2020_TO_BT709]
    return torch.stack(rows, dim=-3).clamp_(0, 1).pow_(1 / SDR_GAMMA)


def words_of(unit: Tensor) -> Tensor:
    """Floats -> int32 in 0..65535: clipped to [0, 1], scaled and rounded."""
    return unit.clamp(0, 1).mul_(MOST).round_().to(torch.int32)


def _looked_up(unit: Tensor, table: Tensor) -> Tensor:
    return table[words_of(unit)]


def tone_of_pq(codes: NDArray[np.float64], peak: int) -> NDArray[np.float64]:
    """PQ codes in [0, 1] -> SDR in [0, 1], float64, see the module; `peak` is in nits."""
    if peak >= PQ_PEAK:
        return hdr_to_sdr((pq_to_light(codes) / PQ_PEAK) ** (1 / SDR_GAMMA), PQ_PEAK)
    last = light_to_pq(np.array(peak, np.float64))
    below = hdr_to_sdr((pq_to_light(np.minimum(codes, last)) / peak) ** (1 / SDR_GAMMA), peak)
    return BELOW_PEAK * below + (1 - BELOW_PEAK) * np.maximum(codes - last, 0) / (1 - last)


@cache
def _table(curve: Callable[[NDArray[np.float64], int], NDArray[np.generic]], peak: int, device: torch.device) -> Tensor:
    """A curve at all 65536 values. It is cached, since each frame of a clip needs the same one."""
    return torch.from_numpy(curve(np.arange(MOST + 1) / MOST, peak)).to(device)


def _pq_to_tone_curve(codes: NDArray[np.float64], peak: int) -> NDArray[np.float32]:
    return tone_of_pq(codes, peak).astype(np.float32)


def _tone_to_pq_curve(codes: NDArray[np.float64], peak: int) -> NDArray[np.int32]:
    """The inverse of `tone_of_pq` by interpolation, rounded to 0..65535."""
    return (np.interp(codes, tone_of_pq(codes, peak), codes) * MOST).round().astype(np.int32)


def _hlg_to_scene_curve(codes: NDArray[np.float64], _peak: int) -> NDArray[np.float32]:
    return hlg_to_scene(codes).astype(np.float32)


def _hdr_to_sdr_curve(codes: NDArray[np.float64], peak: int) -> NDArray[np.float32]:
    return hdr_to_sdr(codes, peak).astype(np.float32)
