"""The layout of a clip, computed once from integers: the order of windows, their tokens, and rotary positions.

Letters: L video tokens of all samples, packed · M text tokens of all samples, packed · S rows of all attention
sequences (each window's video tokens followed by all text tokens of its sample). If ranks share the clip, L are the
tokens of this rank's windows (in packed order), and S their rows.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

import torch
from torch import Tensor

from common.kernels.attention import Sequences
from common.kernels.transfer import to_device
from models.nadit.config import NaDiTConfig, RopeConfig, Size3
from models.nadit.exchange import Exchange, SequenceGroup, SingleProcess
from models.nadit.placement import PlacedWindow, share_windows
from models.nadit.rope import Tables, frequencies, tables, text_positions, window_positions
from models.nadit.windows import cut_windows


@dataclass(frozen=True)
class TextMean:
    """Samples with the same number of windows and the same text length; their text means are one operation.

    rows: [samples, windows, length], the rows of S with the text's outputs.
    target: [samples * length], the rows of M to which the means belong.
    windows: the number of windows of a sample on all ranks, by which the sums are divided.
    """

    rows: Tensor
    target: Tensor
    windows: int


@dataclass(frozen=True)
class WindowLayout:
    """The layout of one partition of the packed clips into windows.

    partition: the number of the partition.
    exchange: sums text means over ranks.
    token_counts: number of video tokens of every sample on this rank.
    sample_of_video: [L], the sample of each video token; None if there is only one sample.
    rows: [S], indices into the video and text tokens (video first) that form the attention sequences.
    video_rows: [L], the row of S with each video token's output.
    rope_video, rope_text: rotary tables of the packed tokens; the 7B has none for text.
    """

    partition: int
    exchange: Exchange
    token_counts: tuple[int, ...]
    sample_of_video: Tensor | None
    sequences: Sequences
    rows: Tensor
    video_rows: Tensor
    text_means: tuple[TextMean, ...]
    rope_video: Tables
    rope_text: Tables | None


@dataclass(frozen=True)
class ClipLayout:
    """Everything in a forward pass that depends on shapes only.

    grids: tokens (T, H, W) of every sample.
    text_lengths: number of text tokens of every sample.
    blocks: the window layout of every block; blocks with the same partition share one object.
    exchange: moves video tokens to the rank that processes them in the next block.
    sample_of_text: [M], the sample of each text token; None if there is only one sample.
    """

    grids: tuple[Size3, ...]
    text_lengths: tuple[int, ...]
    blocks: tuple[WindowLayout, ...]
    exchange: Exchange
    sample_of_text: Tensor | None


def build_layout(
    config: NaDiTConfig,
    video_shapes: Sequence[Sequence[int]],
    text_lengths: Sequence[int],
    device: torch.device | str = "cpu",
    sequence_group: SequenceGroup | None = None,
) -> ClipLayout:
    """Build the layout of a packed batch.

    Args:
        video_shapes: latent (t, h, w) of every sample, multiples of the patch size.
        text_lengths: number of text tokens of every sample.
        device: device of the layout's tensors.
        sequence_group: the ranks that share the windows of the batch, which all call this with the same arguments;
            None: a single process.
    Raises:
        ValueError: the patch size does not divide a shape, or the numbers of videos and texts differ.
    """
    if len(video_shapes) != len(text_lengths) or not video_shapes:
        raise ValueError(f"{len(video_shapes)} videos and {len(text_lengths)} texts: every sample needs one of each")
    grids = tuple(token_grid(shape, config.patch_size) for shape in video_shapes)
    lengths = tuple(int(n) for n in text_lengths)
    kinds = list(zip(config.windows, config.shifted, strict=True))
    partitions = {kind: _place_windows(grids, *kind) for kind in dict.fromkeys(kinds)}
    exchange: Exchange = SingleProcess()
    shared: list[list[bool] | None] = [None] * len(partitions)
    if sequence_group is not None and sequence_group.size > 1:
        owners = share_windows(config, list(partitions.values()), lengths, sequence_group.size)
        exchange = sequence_group.exchange(
            [_owner_of_token(grids, *pair) for pair in zip(partitions.values(), owners, strict=True)], device
        )
        shared = [[owner == sequence_group.rank for owner in of_partition] for of_partition in owners]
    batch = _Batch(config.rope, grids, lengths, device)
    layouts = {
        kind: _window_layout(batch, windows, owned, number, exchange)
        for number, ((kind, windows), owned) in enumerate(zip(partitions.items(), shared, strict=True))
    }
    return ClipLayout(
        grids=grids,
        text_lengths=lengths,
        blocks=tuple(layouts[kind] for kind in kinds),
        exchange=exchange,
        sample_of_text=_sample_of_token(lengths, device),
    )


def token_grid(shape: Sequence[int], patch: Size3) -> Size3:
    """The token grid (T, H, W) of a latent (t, h, w)."""
    if any(n % p or n < 1 for n, p in zip(shape, patch, strict=True)):
        raise ValueError(f"a latent of {tuple(shape)} cannot be cut into patches of {patch}; pad it to a multiple")
    t, h, w = (int(n) // p for n, p in zip(shape, patch, strict=True))
    return t, h, w


def _sample_of_token(counts: Sequence[int], device: torch.device | str) -> Tensor | None:
    if len(counts) == 1:
        return None
    return to_device(torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)), device)


def _place_windows(grids: tuple[Size3, ...], counts: Size3, shifted: bool) -> list[PlacedWindow]:
    return [PlacedWindow(i, span) for i, grid in enumerate(grids) for span in cut_windows(grid, counts, shifted)]


def _owner_of_token(grids: tuple[Size3, ...], windows: list[PlacedWindow], owners: list[int]) -> Tensor:
    """The rank of every packed token: [L]."""
    owner_of_token = torch.empty(sum(prod(grid) for grid in grids), dtype=torch.long)
    for tokens, owner in zip(_video_tokens(grids, windows), owners, strict=True):
        owner_of_token[tokens] = owner
    return owner_of_token


@dataclass(frozen=True)
class _Batch:
    """The properties of a packed batch that all its partitions share.

    grids: tokens (T, H, W) of every sample.
    text_lengths: number of text tokens of every sample.
    device: device of the layout's tensors.
    """

    rope: RopeConfig
    grids: tuple[Size3, ...]
    text_lengths: tuple[int, ...]
    device: torch.device | str


def _window_layout(
    batch: _Batch, windows: list[PlacedWindow], owned: list[bool] | None, partition: int, exchange: Exchange
) -> WindowLayout:
    """Order the windows, all or those of this rank, by length, and build their layout."""
    groups = defaultdict(list)  # windows of one length are adjacent, so that each group is one dense attention call
    for number, window in enumerate(windows):
        if owned is None or owned[number]:
            groups[prod(window.size), batch.text_lengths[window.sample]].append(window)
    ordered = [window for group in groups.values() for window in group]

    video_of_window = _video_tokens(batch.grids, ordered)
    packed = torch.arange(sum(prod(grid) for grid in batch.grids))
    if owned is not None:
        video_of_window, packed = _local_numbers(video_of_window)
    rows, text_starts = _sequence_rows(batch, ordered, video_of_window, len(packed))
    rope_video, rope_text = _rope_tables(batch, ordered, video_of_window, len(packed))
    is_video = rows < len(packed)
    video_rows = torch.empty(len(packed), dtype=torch.long)
    at = is_video.nonzero().squeeze(1)
    video_rows.index_copy_(0, rows[at], at)
    token_counts: Counter[int] = Counter()
    for window in ordered:
        token_counts[window.sample] += prod(window.size)
    sample_of_video = _sample_of_token([prod(grid) for grid in batch.grids], "cpu")
    return WindowLayout(
        partition=partition,
        exchange=exchange,
        token_counts=tuple(token_counts[sample] for sample in range(len(batch.grids))),
        sample_of_video=None if sample_of_video is None else to_device(sample_of_video[packed], batch.device),
        sequences=Sequences.from_groups([(len(group), sum(key)) for key, group in groups.items()], batch.device),
        rows=to_device(rows, batch.device),
        video_rows=to_device(video_rows, batch.device),
        text_means=_text_means(batch, text_starts, Counter(window.sample for window in windows)),
        rope_video=rope_video,
        rope_text=rope_text,
    )


def _sequence_rows(
    batch: _Batch, windows: list[PlacedWindow], video_of_window: list[Tensor], video_tokens: int
) -> tuple[Tensor, dict[int, list[int]]]:
    """The token indices (video first) of all attention sequences [S], and the rows of S where each text starts."""
    first_text = list(accumulate(batch.text_lengths, initial=video_tokens))
    tokens: list[Tensor] = []
    text_starts, start = defaultdict(list), 0
    for window, video in zip(windows, video_of_window, strict=True):
        length = batch.text_lengths[window.sample]
        text_starts[window.sample].append(start + len(video))
        tokens += [video, torch.arange(length) + first_text[window.sample]]
        start += len(video) + length
    return torch.cat(tokens) if tokens else torch.empty(0, dtype=torch.long), text_starts


def _rope_tables(
    batch: _Batch, windows: list[PlacedWindow], video_of_window: list[Tensor], video_tokens: int
) -> tuple[Tables, Tables | None]:
    """Rotary tables of the packed video tokens, and of the text tokens if this generation rotates them."""
    rope, device = batch.rope, batch.device
    freqs = frequencies(rope, device)
    places = [(window.size, batch.text_lengths[window.sample]) for window in windows]
    of_place = {place: window_positions(rope, *place) for place in set(places)}
    positions = torch.empty(video_tokens, 3)
    if places:
        positions.index_copy_(0, torch.cat(video_of_window), torch.cat([of_place[place] for place in places]))
    text = None
    if rope.kind == "text_and_video":
        text = tables(to_device(torch.cat([text_positions(n) for n in batch.text_lengths]), device), freqs)
    return tables(to_device(positions, device), freqs), text


def _local_numbers(tokens: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Renumber the windows' tokens among the tokens of this rank. Returns the new indices, and [L] the packed ones."""
    if not tokens:
        return [], torch.empty(0, dtype=torch.long)
    packed = torch.cat(tokens).sort().values
    return [torch.searchsorted(packed, window) for window in tokens], packed


def _video_tokens(grids: tuple[Size3, ...], windows: list[PlacedWindow]) -> list[Tensor]:
    """The packed indices of the tokens of every window, in (t h w) order."""
    first = accumulate((prod(grid) for grid in grids), initial=0)
    numbered = [(torch.arange(prod(grid)) + start).view(grid) for grid, start in zip(grids, first, strict=False)]
    tokens = []
    for window in windows:
        t0, t1, h0, h1, w0, w1 = window.span
        tokens.append(numbered[window.sample][t0:t1, h0:h1, w0:w1].flatten())
    return tokens


def _text_means(
    batch: _Batch, text_starts: dict[int, list[int]], windows_of_sample: Counter[int]
) -> tuple[TextMean, ...]:
    alike = defaultdict(list)
    for sample, length in enumerate(batch.text_lengths):
        if sample in text_starts:
            alike[len(text_starts[sample]), windows_of_sample[sample], length].append(sample)
    spans = list(pairwise(accumulate(batch.text_lengths, initial=0)))
    means = []
    for (_, windows, length), samples in alike.items():
        starts = torch.tensor([text_starts[sample] for sample in samples])  # samples windows
        rows = starts[:, :, None] + torch.arange(length)
        target = torch.cat([torch.arange(*spans[sample]) for sample in samples])
        means.append(TextMean(to_device(rows, batch.device), to_device(target, batch.device), windows))
    return tuple(means)
