"""Small clips and pictures that tests make for themselves."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch


def smooth_clip(frames: int, height: int, width: int) -> torch.Tensor:
    """u8 [T, 3, H, W]: slow colour waves that move, kind to 4:2:0."""
    y = torch.linspace(0, 1, height)[:, None]
    x = torch.linspace(0, 1, width)[None, :]
    time = torch.arange(frames)[:, None, None] / 10
    waves = [torch.sin(2 * x + y * k + time + k) for k in (1, 2, 3)]  # t H W
    return (torch.stack(waves, dim=1) * 80 + 128).round().to(torch.uint8)


def write_clip(
    path: Path,
    clip: torch.Tensor,
    times: list[Fraction],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: Fraction = Fraction(25),
    ticks: int = 90_000,
    matrix: int | None = None,
    full_range: bool = False,
    audio: str | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    interlaced: bool = False,
    aspect: Fraction | None = None,
) -> Path:
    """Encode a clip with plain PyAV, independent of the writer under test."""
    options = {"libx264": {"crf": "4", "preset": "ultrafast"}}.get(codec, {})
    if interlaced:
        options["x264-params"] = "tff=1"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = clip.shape[-1], clip.shape[-2], pix_fmt
        stream.codec_context.time_base = Fraction(1, ticks)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            stream.codec_context.colorspace = matrix
            stream.codec_context.color_range = 2 if full_range else 1
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        sound = container.add_stream(audio, rate=48_000, layout="mono") if audio else None
        for picture, time in zip(clip, times, strict=True):
            rgb = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            frame = rgb.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=2 if full_range else 1)
            frame.pts, frame.time_base = round(time * ticks), Fraction(1, ticks)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            _write_tone(container, sound, seconds=float(times[-1]) + 1 / float(rate))
    return path


def _write_tone(container, stream, seconds: float) -> None:
    samples = np.sin(np.arange(round(48_000 * seconds)) / 20).astype(np.float32)[None] * 0.5
    resampler = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=48_000)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
    fifo = av.AudioFifo()
    for part in resampler.resample(frame):
        fifo.write(part)
    size = stream.codec_context.frame_size or 1024
    while (chunk := fifo.read(size, partial=True)) is not None:
        container.mux(stream.encode(chunk))
    container.mux(stream.encode(None))


def even_times(frames: int, rate: Fraction = Fraction(25)) -> list[Fraction]:
    """k / rate seconds."""
    return [k / Fraction(rate) for k in range(frames)]


def audio_packets(path: Path) -> list[bytes]:
    """The payload of every packet of the first audio stream."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]
