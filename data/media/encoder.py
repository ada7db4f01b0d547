"""Sets up libav's encoder for an `Encoding`."""

import os
from fractions import Fraction

import av

from data.media.colour import PQ, Colour, tag
from data.media.encoding import Encoding

# The output of x264 depends on the number of threads and on the CPU's instructions, so both are fixed. Its macroblock
# tree reads uninitialised memory, which would make every file different.
X264 = {"preset": "medium", "x264-params": "mbtree=0:cpu-independent=1"}
# The macroblock tree of x265 writes out of bounds for small pictures.
X265 = "log-level=error:frame-threads=2:repeat-headers=1:no-cutree=1"
REORDERED = 2  # frames between the decoding and the display of a frame by x265
ROWS_OF_A_THREAD, MOST_THREADS = 90, 8


def add_stream(
    container: av.container.OutputContainer,
    encoding: Encoding,
    size: tuple[int, int],
    rate: Fraction,
    ticks: int,
    *,
    aspect: Fraction = Fraction(1),
    reorder: bool = True,
) -> av.VideoStream:
    """A video stream of a new container, its encoder ready for frames of `data.yuv.frames.frame_from`.

    Args:
        size: (height, width) as stored.
        rate: frames per second. ticks: of the clock, per second. aspect: width : height of a pixel.
        reorder: False keeps frames in the order of display. MP4 sums decode durations; for reordered frames that
            are not evenly spaced, these differ from display durations, and the length is wrong.
    """
    options = encoder_options(encoding)
    if not reorder and encoding.codec in ("h264", "hevc"):
        options["bf"] = "0"
    stream = container.add_stream(encoding.encoder, rate=rate, options=options)
    assert isinstance(stream, av.VideoStream), f"{encoding.encoder} encodes pictures"
    encoder = stream.codec_context
    encoder.height, encoder.width = size
    encoder.pix_fmt = encoding.stored
    if encoding.encoder == "libx264":
        encoder.thread_type, encoder.thread_count = "FRAME", encoder_threads(size[0])
    if encoding.encoder == "libvpx-vp9":
        encoder.thread_count = encoder_threads(size[0])
    if encoding.codec == "hevc" and container.format.name != "matroska":
        encoder.codec_tag = "hvc1"  # the one of both names that Apple's players accept
    encoder.time_base = stream.time_base = Fraction(1, ticks)
    encoder.sample_aspect_ratio = aspect
    tag(encoder, encoding.colour, encoding.matrix, encoding.full_range)
    return stream


def encoder_options(encoding: Encoding) -> dict[str, str]:
    """Options of libav's encoder."""
    quality = 0.0 if encoding.crf is None else float(encoding.crf)
    crf = {} if encoding.crf is None else {"crf": str(quality)}
    name, light = encoding.encoder, encoding.colour
    if name == "libx264":
        return {**crf, **X264}
    if name == "libx265":
        return {**crf, "preset": "medium", "x265-params": ":".join([X265, *_x265_light(light)])}
    if name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it writes to standard error: errors only
        params = _svt_light(light)
        return {"crf": str(round(quality)), "preset": "6"} | ({"svtav1-params": params} if params else {})
    if name == "libvpx-vp9":
        # Its alternate reference frames have no transparency; the same for all, so that one clip is as good as another.
        return {"crf": str(round(quality)), "b": "0", "deadline": "good", "cpu-used": "2", "auto-alt-ref": "0"}
    if name.endswith("_nvenc"):
        return {"preset": "p5", "tune": "hq", "rc": "vbr", "b": "0", "cq": str(quality)}
    if name == "prores_ks":
        return {"profile": "4444" if "444" in encoding.stored else "hq"}
    return {"level": "3", "slices": "4", "slicecrc": "1"} if name == "ffv1" else {}


def timed(packet: av.Packet, encoding: Encoding, frames: int) -> av.Packet:
    """The packet; of a clip of so few frames that x265 gives no decode times, but any number, with those of display."""
    if encoding.encoder == "libx265" and frames <= REORDERED:
        packet.dts = packet.pts
    return packet


def left_out(encoding: Encoding) -> str | None:
    """Parts of the source's colour information that the file cannot store, for a message."""
    said = encoding.colour.transfer == PQ and (encoding.colour.mastering or encoding.colour.light)
    if said and encoding.encoder not in ("libx265", "libsvtav1"):
        return "the mastering display and the light level of HDR"
    return None


def encoder_threads(height: int) -> int:
    """How many frames are encoded in parallel, by a picture's height; each needs memory and depends on the one before.

    PyAV's default, slices of one frame, uses fewer cores and reduces quality.
    """
    return min(max(height // ROWS_OF_A_THREAD, 1), MOST_THREADS)


def _x265_light(colour: Colour) -> list[str]:
    """Mastering display and content light of HDR10 as x265's options."""
    if colour.transfer != PQ:
        return []
    params = ["hdr10=1", "hdr10-opt=1"] if colour.mastering or colour.light else []
    if colour.mastering:
        (gx, gy, bx, by, rx, ry, wx, wy), (most, least) = colour.mastering[:8], colour.mastering[8:]
        params.append(f"master-display=G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({most},{least})")
    if colour.light:
        params.append(f"max-cll={colour.light[0]},{colour.light[1]}")
    return params


def _svt_light(colour: Colour) -> str:
    """The same as SVT-AV1's options."""
    params = []
    if colour.transfer == PQ and colour.mastering:
        gx, gy, bx, by, rx, ry, wx, wy = (f"{value / 50_000:.5f}" for value in colour.mastering[:8])
        most, least = (f"{value / 10_000:.4f}" for value in colour.mastering[8:])
        params.append(f"mastering-display=G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({most},{least})")
    if colour.transfer == PQ and colour.light:
        params.append(f"content-light={colour.light[0]},{colour.light[1]}")
    return ":".join(params)
