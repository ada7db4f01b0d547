"""Decides how and where the result of a file is stored, and how its pixels are converted for the networks and back."""

import argparse
from pathlib import Path
from typing import Literal

from data.colour.path import Curve, PixelPath
from data.media import ClipRange, MediaInfo, OutputOptions, Probe, output_path
from data.media.clip_range import WHOLE
from data.media.colour import HLG, PQ
from data.media.encoding import check_options, choose, keeps_alpha, picture_bits
from data.media.video_reader import Alpha
from projects.video_diffusion_sr.request import ResultOptions


def result_options_from_flags(args: argparse.Namespace) -> ResultOptions:
    """Read the flags about the form of results.

    Raises:
        ValueError: they contradict each other or are not possible on this machine; the message says what is possible.
    """
    if args.frames_out and args.codec not in ("auto", "png"):
        raise ValueError(f"--frames_out {args.frames_out} writes pictures, no {args.codec}: leave one of them out")
    output = OutputOptions(
        codec=args.codec,
        bit_depth=None if args.bit_depth == "auto" else int(args.bit_depth),
        pixel_format=args.pixel_format,
        container=args.container,
        encoder=args.encoder,
        hdr=args.hdr,
        crf=args.crf,
        frame_rate=args.out_fps,
        metadata=not args.no_metadata,
    )
    options = ResultOptions(
        color_fix=args.color_fix,
        strength=args.strength,
        compare=args.compare,
        frames_out="png" if args.codec == "png" else args.frames_out,
        output=output,
    )
    check_options(options.stored)
    return options


def place_of_result(
    source: Path, output_dir: Path, found: MediaInfo | Probe, options: ResultOptions, clip_range: ClipRange = WHOLE
) -> Path:
    """The path of a file's result.

    Args:
        found: the facts of the file.
        clip_range: the part of the file that is restored.
    Raises:
        ValueError: the options contradict each other or do not fit the file; the message begins with its name.
    """
    frames_out = None if found.kind == "image" else options.frames_out
    try:
        containers = {}
        if found.kind != "image" and not frames_out:
            containers = {"containers": choose(found, options.stored).containers}
        elif found.kind != "image":
            choose(found, options.stored)
        output = output_path(source, output_dir, found, frames_out=frames_out, clip_range=clip_range, **containers)
        if found.kind == "image":
            picture_bits(found, options.output, output.suffix)
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from error
    return output


def alpha_wanted(options: OutputOptions) -> Alpha:
    """The `alpha` argument of `open_media`: clips are read with alpha if the result can have it."""
    return "keep" if keeps_alpha(options) else "white"


def pixel_path(info: MediaInfo, options: ResultOptions) -> PixelPath:
    """The conversion of a file's pixels for the networks, and of results to what their file stores."""
    if info.kind == "image":
        suffix = output_path(info.path, info.path.parent, info).suffix
        bits = picture_bits(info, options.output, suffix)
        bits = 16 if info.depth > 8 else bits  # the writer may dither them to 8 bits
    else:
        bits = choose(info, options.stored, info.colour).result_bits
    return path_of(info, options.output.hdr, bits)


def path_of(info: MediaInfo, hdr: str, bits: Literal[8, 16]) -> PixelPath:
    """The conversion for results with this many bits per sample; hdr: "keep" or "sdr"."""
    curve: Curve = "none"
    if info.transfer == PQ:
        curve = "pq" if hdr == "keep" else "pq to sdr"
    elif info.transfer == HLG and hdr == "sdr":
        curve = "hlg to sdr"
    return PixelPath(info.depth > 8, bits, curve, info.colour.peak)
