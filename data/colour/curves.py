"""Transfer curves of ITU-R BT.2100 and the tone curve of BT.2446, as published, in float64.

Codes are in [0, 1]; luminance ("light") is in cd/m2 ("nits"). Arrays may have any shape.
"""

import numpy as np
from numpy.typing import NDArray

PQ_PEAK = 10_000  # nits
M1, M2 = 2610 / 16384, 2523 / 4096 * 128
C1, C2, C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
HLG_A = 0.17883277
HLG_B, HLG_C = 1 - 4 * HLG_A, 0.5 - HLG_A * np.log(4 * HLG_A)
HLG_PEAK, HLG_GAMMA = 1000, 1.2  # the nominal display of HLG: peak in nits, system gamma
SDR_PEAK, SDR_GAMMA = 100, 2.4  # the SDR display of ITU-R BT.1886: peak in nits, gamma

# BT.2446, 4.2.2 (method A): the lightness at which the second and the third piece of the curve begin.
FIRST, SECOND = 0.7399, 0.9909


def pq_to_light(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """The EOTF of PQ: codes -> luminance in nits. BT.2100, table 4."""
    root = np.asarray(code, np.float64) ** (1 / M2)
    return PQ_PEAK * (np.maximum(root - C1, 0) / (C2 - C3 * root)) ** (1 / M1)


def light_to_pq(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse EOTF of PQ: luminance in nits -> codes. BT.2100, table 4."""
    y = (np.asarray(light, np.float64) / PQ_PEAK) ** M1
    return ((C1 + C2 * y) / (1 + C3 * y)) ** M2


def hlg_to_scene(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse OETF of HLG: codes -> scene light in [0, 1]. BT.2100, table 5."""
    code = np.asarray(code, np.float64)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - HLG_C) / HLG_A) + HLG_B) / 12)


def hdr_to_sdr(lightness: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
    """The tone curve of BT.2446, method A (4.2.2); it is strictly increasing.

    Args:
        lightness: HDR, (luminance / peak) ** (1 / 2.4), in [0, 1].
        peak: the peak luminance of the HDR picture in nits.

    Returns:
        SDR, (luminance / 100 nits) ** (1 / 2.4), in [0, 1].
    """
    hdr, sdr = _spread(peak), _spread(SDR_PEAK)
    seen = np.log1p((hdr - 1) * np.asarray(lightness, np.float64)) / np.log(hdr)
    middle = -1.1510 * seen**2 + 2.7811 * seen - 0.6302
    bent = np.where(seen <= FIRST, 1.0770 * seen, np.where(seen < SECOND, middle, 0.5 * seen + 0.5))
    return (sdr**bent - 1) / (sdr - 1)


def _spread(peak: float) -> float:
    return 1 + 32 * (peak / 10_000) ** (1 / 2.4)
