"""Video compression: encodes and decodes the whole clip with a real encoder, in memory."""

from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter

from data.degradation.blur import Frames
from data.degradation.config import CompressionConfig
from data.degradation.jpeg import uint8_to_unit, unit_to_uint8
from data.degradation.random_walks import choose
from data.pixel_formats import EXACT

MIN_BITS = 1000  # libx264 rounds down to kilobits and refuses a bitrate of 0
REFERENCE_AREA = 256 * 256  # pixels of the ground truth for which the recipe states its bitrates


@dataclass(frozen=True)
class CompressionDraw:
    """A drawn encoder: its name, the bits per frame, and its speed preset (libx264 only)."""

    codec: str
    bits_per_frame: int
    preset: str


def draw_compression(
    config: CompressionConfig, ground_truth_area: int, generator: np.random.Generator
) -> CompressionDraw:
    """Draw encoder and bitrate once for the clip.

    The bits are proportional to the area of the *ground truth* in pixels, so a crop of 512x512 loses as much per pixel
    as one of 256x256. At 256x256 the bits are those of the recipe, whatever size the clip has at this stage.
    """
    codec = choose(generator, config.codecs)
    bits = generator.uniform(*config.bits_per_frame) * ground_truth_area / REFERENCE_AREA
    return CompressionDraw(codec, max(1, round(bits)), config.preset)


def apply_compression(frames: Frames, draw: CompressionDraw) -> Frames:
    """Encode and decode the clip. Frames that differ in size from the first are resized to it, as players do.

    Returns:
        float32 frames with 8-bit values in [0, 1], all of the first frame's size.
    """
    height, width = frames[0].shape[:2]
    clip = [unit_to_uint8(f if f.shape[:2] == (height, width) else cv2.resize(f, (width, height))) for f in frames]
    packets = encode(clip, draw)
    decoded = _decode(packets, draw.codec)
    if len(decoded) != len(frames):
        raise RuntimeError(f"{draw.codec} returned {len(decoded)} frames of {len(frames)} at {width}x{height}.")
    return [uint8_to_unit(frame[:height, :width]) for frame in decoded]


def encode(clip: list[np.ndarray], draw: CompressionDraw) -> list[av.Packet]:
    """The encoder's packets for uint8 frames [h, w, 3] of one size; odd sides are padded by repeating the edge.

    The stream has one frame per second, so the encoder's bits per second are bits per frame. mpeg4 keeps its default
    rate control, as in the recipe. That is loose, so on short clips mpeg4 exceeds its bitrate and degrades less than
    libx264.
    """
    height, width = clip[0].shape[:2]
    pad = (height % 2, width % 2)
    context = av.CodecContext.create(draw.codec, "w")
    assert isinstance(context, VideoCodecContext)
    context.height, context.width = height + pad[0], width + pad[1]
    context.pix_fmt = "yuv420p"
    context.time_base, context.framerate = Fraction(1, 1), Fraction(1, 1)
    context.bit_rate = max(draw.bits_per_frame, MIN_BITS)
    context.thread_count = 1  # processes work in parallel instead; with one thread the result is the same everywhere
    if draw.codec == "libx264":
        # Macroblock-tree off: its AVX-512 code reads uninitialised memory, so the same clip would give other bits.
        context.options = {"preset": draw.preset, "x264-params": "mbtree=0"}
    packets: list[av.Packet] = []
    reformatter = VideoReformatter()  # one for all frames: making it takes three times as long as a small frame
    for i, frame in enumerate(clip):
        if any(pad):
            frame = np.pad(frame, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
        rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture = reformatter.reformat(rgb, format="yuv420p", interpolation=EXACT)
        picture.pts = i
        packets += context.encode(picture)
    return packets + context.encode(None)


def _decode(packets: list[av.Packet], codec: str) -> list[np.ndarray]:
    context = av.CodecContext.create({"libx264": "h264"}.get(codec, codec), "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    pictures = [picture for packet in packets for picture in context.decode(packet)]
    pictures += context.decode(None)
    reformatter = VideoReformatter()
    rgb = (reformatter.reformat(picture, format="rgb24", interpolation=EXACT) for picture in pictures)
    return [picture.to_ndarray() for picture in rgb]
