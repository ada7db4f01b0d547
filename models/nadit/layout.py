"""What depends only on shapes, decided once a clip from integers: which tokens attend together, and where they stand.

Letters: L video tokens of all samples, packed · M text tokens of all samples, packed · S rows of all attention
sequences (each window's video tokens followed by all text tokens of its sample).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

import torch
from torch import Tensor

from common.kernels.attention import Sequences
from models.nadit.config import NaDiTConfig, RopeConfig, Size3
from models.nadit.rope import Tables, frequencies, tables, text_positions, window_positions
from models.nadit.windows import Window, cut_windows


@dataclass(frozen=True)
class TextMean:
    """Samples with equally many windows and equally long texts, whose text outputs are averaged in one operation.

    rows: [samples, windows, length] rows of S that hold the text's outputs.
    target: [samples * length] rows of M that the means belong to.
    windows: the number to divide by.
    """

    rows: Tensor
    target: Tensor
    windows: int


@dataclass(frozen=True)
class WindowLayout:
    """One way to cut the packed clips into windows.

    rows: [S] rows of the video and text tokens stacked (video first) that form the attention sequences.
    video_rows: [L] row of S at which each video token's output lies.
    rope_video, rope_text: tables for the packed tokens; the text has none in the 7B.
    """

    sequences: Sequences
    rows: Tensor
    video_rows: Tensor
    text_means: tuple[TextMean, ...]
    rope_video: Tables
    rope_text: Tables | None


@dataclass(frozen=True)
class ClipLayout:
    """Everything that a forward pass needs to know about shapes.

    blocks: the window layout of every block; blocks that cut alike share one object.
    sample_of_video, sample_of_text: [L], [M] which sample a token belongs to; None when there is only one.
    """

    grids: tuple[Size3, ...]
    text_lengths: tuple[int, ...]
    blocks: tuple[WindowLayout, ...]
    sample_of_video: Tensor | None
    sample_of_text: Tensor | None

    @property
    def token_counts(self) -> list[int]:
        return [prod(grid) for grid in self.grids]


@dataclass(frozen=True)
class PlacedWindow:
    """A window of one sample: its span in the sample's grid."""

    sample: int
    span: Window

    @property
    def size(self) -> Size3:
        t0, t1, h0, h1, w0, w1 = self.span
        return t1 - t0, h1 - h0, w1 - w0


def build_layout(
    config: NaDiTConfig,
    video_shapes: Sequence[Sequence[int]],
    text_lengths: Sequence[int],
    device: torch.device | str = "cpu",
) -> ClipLayout:
    """The layout of a packed batch.

    Args:
        video_shapes: latent (t, h, w) of every sample; must be multiples of the patch.
        text_lengths: text tokens of every sample.
    Raises:
        ValueError: a shape that the patch does not divide, or as many texts as videos are not given.
    """
    if len(video_shapes) != len(text_lengths) or not video_shapes:
        raise ValueError(f"{len(video_shapes)} videos and {len(text_lengths)} texts: every sample needs one of each")
    grids = tuple(token_grid(shape, config.patch_size) for shape in video_shapes)
    lengths = tuple(int(n) for n in text_lengths)
    kinds = list(zip(config.windows, config.shifted, strict=True))
    layouts = {kind: _window_layout(config.rope, grids, lengths, *kind, device) for kind in dict.fromkeys(kinds)}
    return ClipLayout(
        grids=grids,
        text_lengths=lengths,
        blocks=tuple(layouts[kind] for kind in kinds),
        sample_of_video=_sample_of_token([prod(grid) for grid in grids], device),
        sample_of_text=_sample_of_token(lengths, device),
    )


def token_grid(shape: Sequence[int], patch: Size3) -> Size3:
    """Tokens (T, H, W) of a latent (t, h, w)."""
    if any(n % p or n < 1 for n, p in zip(shape, patch, strict=True)):
        raise ValueError(f"a latent of {tuple(shape)} cannot be cut into patches of {patch}; pad it to a multiple")
    return tuple(int(n) // p for n, p in zip(shape, patch, strict=True))


def _sample_of_token(counts: Sequence[int], device: torch.device | str) -> Tensor | None:
    if len(counts) == 1:
        return None
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device)


def _window_layout(
    rope: RopeConfig,
    grids: tuple[Size3, ...],
    text_lengths: tuple[int, ...],
    counts: Size3,
    shifted: bool,
    device: torch.device | str,
) -> WindowLayout:
    windows = [PlacedWindow(i, span) for i, grid in enumerate(grids) for span in cut_windows(grid, counts, shifted)]
    groups = defaultdict(list)  # windows of one length follow one another: each run is one dense attention call
    for window in windows:
        groups[prod(window.size), text_lengths[window.sample]].append(window)
    ordered = [window for group in groups.values() for window in group]

    video_of_window = _video_tokens(grids, ordered)
    first_text = list(accumulate(text_lengths, initial=sum(prod(grid) for grid in grids)))
    rows, text_starts, start = [], defaultdict(list), 0
    for window, video in zip(ordered, video_of_window, strict=True):
        length = text_lengths[window.sample]
        text_starts[window.sample].append(start + len(video))
        rows += [video, torch.arange(length) + first_text[window.sample]]
        start += len(video) + length
    rows = torch.cat(rows)

    is_video = rows < first_text[0]
    video_rows = torch.empty(first_text[0], dtype=torch.long)
    video_rows[rows[is_video]] = is_video.nonzero().squeeze(1)

    freqs = frequencies(rope)
    positions = torch.empty(first_text[0], 3)
    for window, video in zip(ordered, video_of_window, strict=True):
        positions[video] = window_positions(rope, window.size, text_lengths[window.sample])
    rope_text = None
    if rope.kind == "text_and_video":
        rope_text = tables(torch.cat([text_positions(length) for length in text_lengths]), freqs)
    return WindowLayout(
        sequences=Sequences.from_groups([(len(group), sum(key)) for key, group in groups.items()], device),
        rows=rows.to(device),
        video_rows=video_rows.to(device),
        text_means=_text_means(text_starts, text_lengths, device),
        rope_video=_to(tables(positions, freqs), device),
        rope_text=None if rope_text is None else _to(rope_text, device),
    )


def _to(pair: Tables, device: torch.device | str) -> Tables:
    return pair[0].to(device), pair[1].to(device)


def _video_tokens(grids: tuple[Size3, ...], windows: list[PlacedWindow]) -> list[Tensor]:
    """Packed indices of every window's tokens, each in (t h w) order."""
    first = accumulate((prod(grid) for grid in grids), initial=0)
    numbered = [(torch.arange(prod(grid)) + start).view(grid) for grid, start in zip(grids, first, strict=False)]
    tokens = []
    for window in windows:
        t0, t1, h0, h1, w0, w1 = window.span
        tokens.append(numbered[window.sample][t0:t1, h0:h1, w0:w1].flatten())
    return tokens


def _text_means(
    text_starts: dict[int, list[int]], text_lengths: tuple[int, ...], device: torch.device | str
) -> tuple[TextMean, ...]:
    alike = defaultdict(list)
    for sample, length in enumerate(text_lengths):
        alike[len(text_starts[sample]), length].append(sample)
    spans = list(pairwise(accumulate(text_lengths, initial=0)))
    means = []
    for (windows, length), samples in alike.items():
        starts = torch.tensor([text_starts[sample] for sample in samples])  # samples windows
        rows = starts[:, :, None] + torch.arange(length)
        target = torch.cat([torch.arange(*spans[sample]) for sample in samples])
        means.append(TextMean(rows.to(device), target.to(device), windows))
    return tuple(means)
