"""Curves of ITU-R BT.2100 and BT.2446 as published, in float64. Codes are 0 to 1, light is in cd/m2 ("nits")."""

import numpy as np
from numpy.typing import NDArray

PQ_PEAK = 10_000
M1, M2 = 2610 / 16384, 2523 / 4096 * 128
C1, C2, C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
HLG_A = 0.17883277
HLG_B, HLG_C = 1 - 4 * HLG_A, 0.5 - HLG_A * np.log(4 * HLG_A)
HLG_PEAK, HLG_GAMMA = 1000, 1.2  # the nominal display of HLG
SDR_PEAK, SDR_GAMMA = 100, 2.4  # the display of SDR, ITU-R BT.1886

# Method A of BT.2446, 4.2.2: three pieces of the curve over perceived lightness.
FIRST, SECOND = 0.7399, 0.9909


def pq_to_light(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """Codes of PQ -> nits. BT.2100, table 4 (EOTF)."""
    root = np.asarray(code, np.float64) ** (1 / M2)
    return PQ_PEAK * (np.maximum(root - C1, 0) / (C2 - C3 * root)) ** (1 / M1)


def light_to_pq(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nits -> codes of PQ."""
    y = (np.asarray(light, np.float64) / PQ_PEAK) ** M1
    return ((C1 + C2 * y) / (1 + C3 * y)) ** M2


def hlg_to_scene(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """Codes of HLG -> light of the scene, 0 to 1. BT.2100, table 5 (inverse OETF)."""
    code = np.asarray(code, np.float64)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - HLG_C) / HLG_A) + HLG_B) / 12)


def hdr_to_sdr(lightness: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
    """The tone curve of BT.2446 method A; it is strictly increasing.

    Args:
        lightness: 0 to 1, (light / peak) ** (1 / 2.4).
        peak: of the HDR picture, nits.

    Returns:
        0 to 1, lightness of SDR: (light / 100 nits) ** (1 / 2.4).
    """
    hdr, sdr = _spread(peak), _spread(SDR_PEAK)
    seen = np.log1p((hdr - 1) * np.asarray(lightness, np.float64)) / np.log(hdr)
    middle = -1.1510 * seen**2 + 2.7811 * seen - 0.6302
    bent = np.where(seen <= FIRST, 1.0770 * seen, np.where(seen < SECOND, middle, 0.5 * seen + 0.5))
    return (sdr**bent - 1) / (sdr - 1)


def _spread(peak: float) -> float:
    return 1 + 32 * (peak / 10_000) ** (1 / 2.4)
