"""A clip of any length through the transformer: whole, or in windows that share latent frames."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

SHARED_LATENTS = 2  # two shared latent frames remove most of the jump between windows; a pixel cross-fade would soften


def in_windows(
    latents: Iterator[Tensor], sample: Callable[[Tensor, int], Tensor], window: int | None, first: int = 0
) -> Iterator[Tensor]:
    """Restore a stream of latents in order, holding one window of them at a time.

    Windows share `SHARED_LATENTS` frames, in which the earlier one fades into the later one. The fade is between
    latents and not between pixels, so nothing gets soft; noise belongs to the latent frame and not to the window.

    Args:
        latents: pieces [t, h, w, c] of a clip, in order, of any lengths.
        sample: (latents of a window [t, h, w, c], number of its first latent frame) -> restored, same shape.
        window: latent frames; None: all at once.
        first: number of the first latent frame, with which a window begins; that window then lacks the fade from the
            one before.
    Yields:
        Restored pieces [t, h, w, c], together as long as the clip.
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
    """ValueError unless a window (latent frames) is longer than what it shares with the next."""
    if window is not None and window <= SHARED_LATENTS:
        raise ValueError(
            f"windows of {window} latent frames are too short: they share {SHARED_LATENTS}; use a larger --window"
        )


def _faded(restored: Tensor, tail: Tensor | None) -> Tensor:
    """`tail`, the end of the window before, faded into the beginning of `restored`, which shows the same frames."""
    if tail is None:
        return restored
    weights = torch.arange(1, len(tail) + 1, device=restored.device, dtype=restored.dtype) / (len(tail) + 1)
    shared = torch.lerp(tail, restored[: len(tail)], weights[:, None, None, None])
    return torch.cat([shared, restored[len(tail) :]])
