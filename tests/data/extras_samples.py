"""Clips with languages, subtitles, chapters, covers and tags, and their way through reader and writer."""

import io
from fractions import Fraction

import av
from PIL import Image

from data.media import open_media, open_writer, output_path
from tests.data.media_samples import even_times, smooth_clip, write_clip

CLIP, TIMES = smooth_clip(25, 32, 48), even_times(25)
DISPOSITION = av.stream.Disposition
LINES = [(0, 300, b"first <i>slanted</i> line"), (400, 300, "zweite Zeile, äöü".encode())]
EMPTY_PGS = b"\x16\0\x0b\0\x30\0\x20\x10\0\0\x80\0\0\0\0" + b"\x80\0\0"  # a composition and its end


def cover(picture_format="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 30, 60)).save(file, picture_format)
    return file.getvalue()


def clip_with(path, *, tags=(), tracks=(), subtitles=(), chapters=(), files=(), start_s=0):
    """A clip of one second with what is asked for.

    tracks: (tags, disposition) of sound; subtitles: (codec, tags, disposition); files: (name, type, data).
    """
    source = write_clip(path.with_name("source.mkv"), CLIP, TIMES, audio="aac")
    with av.open(str(source)) as original, av.open(str(path), "w") as container:
        video, sound = original.streams.video[0], original.streams.audio[0]
        container.metadata.update(dict(tags))
        targets = {video.index: [container.add_stream_from_template(video, opaque=True)], sound.index: []}
        for own, disposition in tracks:
            stream = container.add_stream_from_template(sound)
            stream.metadata.update(own)
            stream.disposition = disposition
            targets[sound.index].append(stream)
        texts = []
        for codec, own, disposition in subtitles:
            stream = container.add_mux_stream(codec, time_base=Fraction(1, 1000))
            stream.metadata.update(own)
            stream.disposition = disposition
            texts.append((codec, stream))
        for name, mimetype, data in files:
            container.add_attachment(name, mimetype, data)
        base = Fraction(1, 1000)
        container.set_chapters(
            [
                {"id": n, "start": a, "end": b, "time_base": base, "metadata": {"title": t}}
                for n, (a, b, t) in enumerate(chapters, start=1)
            ]
        )
        for codec, stream in texts:
            for start, duration, text in LINES:
                text = {"ass": b"0,0,Default,,0,0,0,," + text, "hdmv_pgs_subtitle": EMPTY_PGS}.get(codec, text)
                packet = av.Packet(text)
                packet.pts = packet.dts = start + 1000 * start_s
                packet.duration, packet.time_base, packet.stream = duration, base, stream
                container.mux(packet)
        for packet in original.demux():
            if not packet.size:
                continue
            late = round(start_s / packet.time_base)
            packet.pts, packet.dts = packet.pts + late, packet.dts + late
            for stream in targets[packet.stream_index]:
                packet.stream = stream
                container.mux(packet)
    return path


def through(source, folder, suffix=None, **options):
    """(path of the result, open result) of a clip that goes through reader and writer."""
    with open_media(source) as reader:
        target = output_path(source, folder, reader.info)
        target = target.with_suffix(suffix) if suffix else target
        with open_writer(target, reader.info, (32, 48), **options) as writer:
            for frame in reader:
                writer.write(frame.pixels[None], [frame.time])
    return target


def lowered(tags):
    return {name.lower(): value for name, value in tags.items()}


TRACKS = [({"language": "eng"}, 0), ({"language": "fra", "title": "Commentaire"}, DISPOSITION.default)]
