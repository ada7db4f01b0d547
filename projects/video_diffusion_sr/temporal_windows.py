"""Runs the transformer on a clip of any length: on the whole clip, or on windows that overlap."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

SHARED_LATENTS = 2  # this overlap removes most of the jump between windows; a cross-fade of pixels would blur


def in_windows(
    latents: Iterator[Tensor], sample: Callable[[Tensor, int], Tensor], window: int | None, first: int = 0
) -> Iterator[Tensor]:
    """Restore a stream of latents in order, holding one window of them at a time.

    Windows overlap by `SHARED_LATENTS` frames, in which the earlier window fades into the later one. The fade is
    between latents and not between pixels, so it does not blur. Noise depends on the latent frame, not on the window.

    Args:
        latents: chunks [t, h, w, c] of a clip, in order, of any lengths.
        sample: a function (latents of a window [t, h, w, c], number of its first latent frame) -> restored latents of
            the same shape.
        window: length of a window in latent frames; None: the whole clip.
        first: number of the first latent frame, which begins a window; this window has no fade from an earlier one.
    Yields:
        restored chunks [t, h, w, c], which together have the length of the clip.
    """
    waiting, tail = [], None
    for piece in latents:
        waiting.append(piece)
        while window is not None and sum(map(len, waiting)) > window:
            ready = torch.cat(waiting)
            restored = _faded(sample(ready[:window], first), tail)
            kept = window - SHARED_LATENTS
            yield restored[:kept]
            tail, waiting, first = restored[kept:], [ready[kept:]], first + kept
    yield _faded(sample(torch.cat(waiting), first), tail)


def check_window(window: int | None) -> None:
    """Raise ValueError unless a window (in latent frames) is longer than the overlap."""
    if window is not None and window <= SHARED_LATENTS:
        raise ValueError(
            f"windows of {window} latent frames are too short: they share {SHARED_LATENTS}; use a larger --window"
        )


def _faded(restored: Tensor, tail: Tensor | None) -> Tensor:
    """Fade `tail`, the end of the previous window, into the beginning of `restored`, which has the same frames."""
    if tail is None:
        return restored
    weights = torch.arange(1, len(tail) + 1, device=restored.device, dtype=restored.dtype) / (len(tail) + 1)
    shared = torch.lerp(tail, restored[: len(tail)], weights[:, None, None, None])
    return torch.cat([shared, restored[len(tail) :]])
