"""Sets up the libav encoder of an `Encoding`."""

import os
from fractions import Fraction

import av

from data.media.colour import PQ, Colour, tag
from data.media.encoding import Encoding

# The output of x264 depends on the number of threads and on the CPU's instruction sets, so both are fixed. Macroblock
# tree is off, because it reads uninitialised memory: every file would be different.
X264 = {"preset": "medium", "x264-params": "mbtree=0:cpu-independent=1"}
# CU-tree is off, because in x265 it writes out of bounds for small pictures.
X265 = "log-level=error:frame-threads=2:repeat-headers=1:no-cutree=1"
REORDERED = 2  # x265's reordering delay in frames
ROWS_OF_A_THREAD, MOST_THREADS = 90, 8  # one thread for this many rows of a picture


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
    """Add a video stream to a new container, with an encoder for frames of `data.yuv.frames.frame_from`.

    Args:
        container: the output; its header is not written yet.
        encoding: codec, pixel format, quality and colour.
        size: (height, width) in pixels, as stored.
        rate: frames per second.
        ticks: ticks of the clip's clock per second.
        aspect: width : height of a pixel.
        reorder: False disables B-frames (H.264 and HEVC). MP4 adds up the durations between decoding times; for
            reordered frames at uneven times, these differ from the display durations, so the length would be wrong.
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
        encoder.codec_tag = "hvc1"  # of the two names of HEVC, the one that Apple's players accept
    encoder.time_base = stream.time_base = Fraction(1, ticks)
    encoder.sample_aspect_ratio = aspect
    tag(encoder, encoding.colour, encoding.matrix, encoding.full_range)
    return stream


def encoder_options(encoding: Encoding) -> dict[str, str]:
    """The options of the libav encoder; for SVT-AV1, it also sets the environment variable SVT_LOG if it is unset."""
    quality = 0.0 if encoding.crf is None else float(encoding.crf)
    crf = {} if encoding.crf is None else {"crf": str(quality)}
    name, light = encoding.encoder, encoding.colour
    if name == "libx264":
        return {**crf, **X264}
    if name == "libx265":
        return {**crf, "preset": "medium", "x265-params": ":".join([X265, *_x265_light(light)])}
    if name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes to standard error; this limits it to errors
        params = _svt_light(light)
        return {"crf": str(round(quality)), "preset": "6"} | ({"svtav1-params": params} if params else {})
    if name == "libvpx-vp9":
        # Alternate reference frames have no transparency. They are off for opaque clips too, for the same quality.
        return {"crf": str(round(quality)), "b": "0", "deadline": "good", "cpu-used": "2", "auto-alt-ref": "0"}
    if name.endswith("_nvenc"):
        return {"preset": "p5", "tune": "hq", "rc": "vbr", "b": "0", "cq": str(quality)}
    if name == "prores_ks":
        return {"profile": "4444" if "444" in encoding.stored else "hq"}
    return {"level": "3", "slices": "4", "slicecrc": "1"} if name == "ffv1" else {}


def timed(packet: av.Packet, encoding: Encoding, frames: int) -> av.Packet:
    """Return the packet, with its decoding time corrected.

    For clips of no more frames than its reordering delay, x265 gives arbitrary decoding times; they become the display
    times.

    Args:
        frames: how many frames the file has.
    """
    if encoding.encoder == "libx265" and frames <= REORDERED:
        packet.dts = packet.pts
    return packet


def left_out(encoding: Encoding) -> str | None:
    """The parts of the source's HDR metadata that the file cannot store, as a phrase for a message; None if none."""
    said = encoding.colour.transfer == PQ and (encoding.colour.mastering or encoding.colour.light)
    if said and encoding.encoder not in ("libx265", "libsvtav1"):
        return "the mastering display and the light level of HDR"
    return None


def encoder_threads(height: int) -> int:
    """The number of encoder threads for pictures of this height in pixels.

    In x264 each thread encodes another frame; it takes memory and waits for rows of the frame before, so low pictures
    get few threads. PyAV's default, parallel slices of one frame, uses fewer cores and reduces quality.
    """
    return min(max(height // ROWS_OF_A_THREAD, 1), MOST_THREADS)


def _x265_light(colour: Colour) -> list[str]:
    """The mastering display and the content light level of HDR10, as options of x265."""
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
    """The mastering display and the content light level of HDR10, as options of SVT-AV1."""
    params = []
    if colour.transfer == PQ and colour.mastering:
        gx, gy, bx, by, rx, ry, wx, wy = (f"{value / 50_000:.5f}" for value in colour.mastering[:8])
        most, least = (f"{value / 10_000:.4f}" for value in colour.mastering[8:])
        params.append(f"mastering-display=G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({most},{least})")
    if colour.transfer == PQ and colour.light:
        params.append(f"content-light={colour.light[0]},{colour.light[1]}")
    return ":".join(params)
