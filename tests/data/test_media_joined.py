"""A clip that is written segment by segment is the clip that is written whole, in every codec."""

import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from data.media import MediaInfo, OutputOptions, open_writer, segmented
from data.media.codecs import TABLE

FRAMES, EVERY, RATE = 27, 5, Fraction(30000, 1001)
SIZE = (48, 64)
FORMS = [
    (codec, container, transparent)
    for codec in ("h264", "hevc", "vp9", "av1", "prores", "ffv1")
    for container in TABLE[codec].containers
    for transparent in ((False, True) if TABLE[codec].transparent else (False,))
]


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(segmented, "LEAST_KEPT", 8)


def frames(transparent: bool) -> Iterator[Tensor]:
    """16-bit words [1, 3 or 4, H, W]: noise that drifts."""
    noise = np.random.default_rng(1).integers(0, 65536, (3 + transparent, SIZE[0] + FRAMES, SIZE[1]), np.uint16)
    for number in range(FRAMES):
        yield torch.from_numpy(noise[None, :, number : number + SIZE[0]].view(np.int16).copy())


def write(path: Path, options: OutputOptions, transparent: bool, identity: dict | None, end: int = FRAMES) -> int:
    """Write frames, from the first that is not kept up to `end`, where the run is stopped; the number of the first."""
    info = MediaInfo(
        Path("clip.mkv"), "video", SIZE[1], SIZE[0], frame_rate=RATE, frame_count_hint=FRAMES, depth=10,
        transparent=transparent,
    )  # fmt: skip
    writer = open_writer(path, info, SIZE, options=options, identity=identity)
    first = writer.frames
    try:
        with writer:
            for number, frame in enumerate(frames(transparent)):
                if first <= number < end:
                    border = {0: 0} if number % EVERY == 0 else None
                    writer.write_planes(writer.planes_for(frame), [number / RATE], border)
            if end < FRAMES:
                raise InterruptedError
    except InterruptedError:
        assert end < FRAMES
    return first


def read(path: Path) -> tuple[list[tuple], list[bytes]]:
    """What a file says of its picture and when its frames are shown; their samples."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        facts = [stream.codec_context.codec_tag, stream.codec_context.pix_fmt, stream.duration, container.duration]
    times = [frame.pts * frame.time_base for frame in decoded]
    return [*facts, *times], [b"".join(bytes(plane) for plane in frame.planes) for frame in decoded]


@pytest.mark.parametrize(("codec", "container", "transparent"), FORMS)
def test_the_bytes_do_not_tell_of_an_interruption_nor_the_frames_of_segments(tmp_path, codec, container, transparent):
    if TABLE[codec].encoders["cpu"] not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder of {codec}")
    options = OutputOptions(codec=codec)
    whole, joined, resumed = (tmp_path / f"{name}.{container}" for name in ("whole", "joined", "resumed"))
    write(whole, options, transparent, None)
    write(joined, options, transparent, {"of": "test"})
    assert write(resumed, options, transparent, {"of": "test"}, end=23) == 0
    assert write(resumed, options, transparent, {"of": "test"}) == 20
    assert resumed.read_bytes() == joined.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(p.name for p in (whole, joined, resumed))
    (facts, pixels), (facts_joined, pixels_joined) = read(whole), read(joined)
    assert facts_joined == facts
    if codec in ("prores", "ffv1"):  # every frame by itself, or without loss: the same samples
        assert pixels_joined == pixels


def test_a_segment_costs_a_line_of_the_manifest_and_no_more_memory(tmp_path):
    """Frames that are kept leave nothing behind in the process, however many segments there are."""

    def peak(segments: int) -> int:
        count, info = 8 * segments, MediaInfo(Path("clip.mkv"), "video", 64, 48, frame_rate=RATE)
        picture = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
        with open_writer(tmp_path / f"{segments}.mp4", info, SIZE, identity={"of": "test"}) as writer:
            planes = writer.planes_for(picture)
            tracemalloc.start()
            for number in range(count):
                writer.write_planes(planes, [number / RATE], {0: 0})
            found = tracemalloc.get_traced_memory()[1]
            assert len(writer.kept.pieces) == segments - 1
            tracemalloc.stop()
        with av.open(str(tmp_path / f"{segments}.mp4")) as container:
            assert container.streams.video[0].frames == count
        return found

    few, many = peak(5), peak(30)
    assert many - few < 25 * 4000  # bytes: a line of the manifest, and copies of it while it is written
