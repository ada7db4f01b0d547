"""YUV and RGB by the formula in real numbers, written apart from the code under test."""

import numpy as np
import torch

from data.yuv.layout import rgb_to_yuv, yuv_to_rgb

NEAREST = 0.53  # levels: half of one, and the rounding of the whole numbers


def noise(layout, frames=2, height=22, width=28, seed=0):
    """Planes of every code that the layout's samples can hold."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(height, width)] + [layout.chroma_size(height, width) if layout.model == "yuv" else (height, width)] * 2
    planes = [
        torch.randint(0, 2**layout.depth, (frames, *size), generator=generator, dtype=torch.int32)
        for size in sizes[: layout.colour_planes]
    ]
    words = [plane << layout.shift for plane in planes]
    return tuple(w.to(torch.uint8) if layout.depth == 8 else w.to(torch.int16) for w in words)


def codes(planes, layout):
    """The numbers in the words, float64."""
    wide = [p.numpy().view(np.uint8 if layout.depth == 8 else np.uint16).astype(np.int64) for p in planes]
    return [(p >> layout.shift).astype(np.float64) for p in wide]


def cubic(x):
    """Keys' kernel with a = -0.6 in real numbers."""
    x = np.abs(x)
    near = 1.4 * x**3 - 2.4 * x**2 + 1
    far = -0.6 * x**3 + 3 * x**2 - 4.8 * x + 2.4
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def resampled(x, axis, count, place_of, widest):
    """Samples at real places along an axis; outside of the picture the last sample inside counts."""
    out, last = [], x.shape[axis] - 1
    for k in range(count):
        place = place_of(k)
        n = np.arange(int(np.floor(place)) - 2 * widest, int(np.floor(place)) + 2 * widest + 2)
        weights = cubic((n - place) / widest) / widest
        out.append(np.tensordot(x.take(np.clip(n, 0, last), axis), weights, axes=([axis], [0])))
    return np.stack(out, axis)


def real_rgb(planes, layout, field=None):
    """[T, 3, H, W] float64 in levels of 255: the formula of BT.709 and its kin in real numbers, not clipped."""
    y, *chroma = codes(planes, layout)
    (black, steps), (middle, chroma_steps) = layout.luma_range(), layout.chroma_range()
    y = (y - black) / steps
    if layout.model != "yuv":
        colours = [y, *((c - black) / steps for c in chroma)] if chroma else [y] * 3
        return 255 * np.stack(colours, axis=1)
    (across, down), (x_site, y_site) = layout.subsampling, map(float, layout.site())
    y_site = y_site if field is None else (y_site + field) / 2
    full = []
    for c in chroma:
        c = (c - middle) / chroma_steps
        c = resampled(c, 1, y.shape[1], lambda k: (k - y_site) / down, 1) if down > 1 else c
        full.append(resampled(c, 2, y.shape[2], lambda k: (k - x_site) / across, 1) if across > 1 else c)
    rows = [(float(u), float(v)) for u, v in yuv_to_rgb(layout.matrix)]
    return 255 * np.stack([y + u * full[0] + v * full[1] for u, v in rows], axis=1)


def real_yuv(rgb, layout):
    """Y, U, V in codes, float64, not clipped, of [T, 3, H, W] in [0, 1]."""
    (across, down), (x_site, y_site) = layout.subsampling, map(float, layout.site())
    height, width = layout.chroma_size(*rgb.shape[-2:])
    (black, steps), (middle, chroma_steps) = layout.luma_range(), layout.chroma_range()
    matrix = np.array([[float(weight) for weight in row] for row in rgb_to_yuv(layout.matrix)])
    y, u, v = (np.einsum("c,tchw->thw", row, rgb) for row in matrix)
    small = []
    for c in (u, v):
        c = resampled(c, 1, height, lambda k: down * k + y_site, down) if down > 1 else c
        small.append(resampled(c, 2, width, lambda k: across * k + x_site, across) if across > 1 else c)
    return [black + steps * y, *(middle + chroma_steps * c for c in small)]
