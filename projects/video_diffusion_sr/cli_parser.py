"""The flags of the inference scripts. It does not import PyTorch, so `--help` and wrong flags respond at once."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.distributed.refusal import JobParser
from common.distributed.timeout import TIMEOUT_S
from projects.video_diffusion_sr.flag_types import (
    count,
    exact_size,
    frame_rate,
    frame_span,
    time_of_clip,
    to_name,
    to_path,
)
from projects.video_diffusion_sr.presets import Preset

ROOT = Path(__file__).resolve().parents[2]
DTYPE_NAMES = ("bfloat16", "float16", "float32")  # the names in request.DTYPES
FRAMES_OUT = ("png",)  # sequence_writer.FRAMES_OUT
CODECS = ("auto", "h264", "hevc", "vp9", "av1", "prores", "ffv1", "png")  # data.media.codecs.CODECS
CONTAINERS, ENCODERS = ("mp4", "mov", "mkv", "webm"), ("cpu", "nvenc")
COLOR_FIXES = ("wavelet", "lab", "adain", "none")  # color_fix.KINDS


def parser(preset: Preset, command: str | None = None) -> argparse.ArgumentParser:
    """The parser of all flags: those of the reference program, and those that this program adds.

    Args:
        command: the command that the user typed; None: the preset's script.
    """
    script = command or f"projects/inference_{preset.name.lower().replace('-', '_')}.py"
    start = script if command else f"python {script}"
    p = JobParser(
        prog=script,
        description=f"Restore videos and pictures with {preset.name}.",
        epilog=f"example: {start} --video_path clips --output_dir restored --res_h {preset.res[0]} "
        f"--res_w {preset.res[1]}\nOn several GPUs add --gpus N, or put torchrun --nproc-per-node=N in front.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = p.add_argument_group("files (paths are relative to the current folder)")
    add_input(files)
    add_existing(files)
    add_weights(files)
    result = p.add_argument_group("result")
    add_result(result, preset)
    add_output(result)
    add_form(p.add_argument_group("depth, codec and colour of the result (docs/color.md lists the combinations)"))
    run = p.add_argument_group("how it runs")
    add_devices(run)
    add_memory(run, preset)
    add_model(run, preset)
    return p


def add_input(group: argparse._ArgumentGroup) -> None:
    """Add flags for the input files, the part of them to restore, and the folder of results."""
    group.add_argument(
        "--video_path", type=to_path, required=True,
        help="a video or picture, a folder of them, or numbered pictures as frame_%%05d.png",
    )  # fmt: skip
    group.add_argument(
        "--output_dir", type=to_path, help="folder for the results, created if missing; not needed with --plan"
    )
    group.add_argument(
        "--recursive", action="store_true", help="also search subfolders; --output_dir gets the same structure"
    )
    group.add_argument(
        "--frames_as_clip", action="store_true",
        help="treat --video_path, a folder of numbered pictures, as one clip; otherwise only its subfolders are clips, "
        "if every file in them looks like a frame",
    )  # fmt: skip
    group.add_argument(
        "--start", type=time_of_clip, metavar="TIME", help="start of the part to restore: seconds, or hh:mm:ss.ms"
    )
    group.add_argument(
        "--end", type=time_of_clip, metavar="TIME",
        help="end of the part to restore; sound and chapters are cut with it",
    )  # fmt: skip
    group.add_argument(
        "--frames", type=frame_span, metavar="N | A:B", help="the first N frames, or frames A to B - 1, counted from 0"
    )


def add_existing(group: argparse._ArgumentGroup) -> None:
    """Add flags for what happens to existing results."""
    exists = group.add_mutually_exclusive_group()
    exists.add_argument("--overwrite", action="store_true", help="replace existing results")
    exists.add_argument(
        "--skip_existing", action="store_true", help="skip files that have a result; resumes an interrupted run"
    )
    group.add_argument(
        "--no_resume", action="store_true",
        help="start every file again; otherwise the finished segments of an interrupted long clip are kept beside the "
        "result, and the same command resumes there",
    )  # fmt: skip


def add_weights(group: argparse._ArgumentGroup) -> None:
    """Add flags for the places of weights."""
    group.add_argument(
        "--ckpt_dir", type=to_path, default=ROOT / "ckpts",
        help="folder of weights and prompt embeddings (default: ckpts)",
    )  # fmt: skip
    group.add_argument(
        "--checkpoint", type=to_path, metavar="FILE", help="weights of the transformer, in place of the preset's file"
    )
    group.add_argument(
        "--vae_checkpoint", type=to_path, metavar="FILE", help="weights of the VAE, in place of the preset's file"
    )


def add_result(group: argparse._ArgumentGroup, preset: Preset) -> None:
    """Add flags for the size, colours and strength of the result."""
    group.add_argument(
        "--res_h", type=int, default=preset.res[0], help="height of the result (%(default)s); see --res_w"
    )
    group.add_argument(
        "--res_w", type=int, default=preset.res[1],
        help="width of the result (%(default)s); only the area res_h x res_w counts, the aspect ratio is the file's",
    )  # fmt: skip
    one = group.add_mutually_exclusive_group()
    one.add_argument(
        "--scale", type=float, metavar="FACTOR", help="size as a factor of the file's, in place of --res_h and --res_w"
    )
    one.add_argument(
        "--short_side", type=int, metavar="PIXELS", help="length of the shorter side, in place of --res_h and --res_w"
    )
    one.add_argument(
        "--size", type=exact_size, metavar="WxH", help="exact width and height, in place of --res_h and --res_w"
    )
    group.add_argument(
        "--seed", type=int, default=666, help="seed; the same seed and file give the same result (%(default)s)"
    )
    group.add_argument(
        "--color_fix", choices=COLOR_FIXES, default="wavelet",
        help="how the result gets the colours of the input (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--strength", type=float, default=1.0,
        help="1: the restored clip, 0: the resized input; values between reduce over-sharpening (%(default)s)",
    )  # fmt: skip


def add_output(group: argparse._ArgumentGroup) -> None:
    """Add flags for what is written into the result and beside it."""
    group.add_argument(
        "--out_fps", type=frame_rate,
        help="frame rate of the result, such as 24 or 30000/1001; default: the file's, 24 for numbered pictures",
    )  # fmt: skip
    group.add_argument(
        "--crf", type=float,
        help="quality of H.264, HEVC and AV1: a lower value gives a better and larger file; default: visually lossless",
    )  # fmt: skip
    group.add_argument(
        "--frames_out", choices=FRAMES_OUT, help="write each clip as a folder of pictures (NAME/frame_00001.png, ...)"
    )
    group.add_argument(
        "--fit", choices=["pad", "crop"], default="pad",
        help="how sizes become multiples of 16: pad keeps the exact size, crop cuts like the reference (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--deinterlace", choices=["auto", "always", "never"], default="auto",
        help="deinterlace clips; auto: those that are marked as interlaced (%(default)s)",
    )  # fmt: skip
    group.add_argument("--compare", action="store_true", help="also write a side-by-side clip and a contact sheet")
    group.add_argument(
        "--report", nargs="?", const=True, metavar="FILE.html",
        help="also write a page about the run: figures, sliders between input and result, flicker, log lines; "
        "default: report.html in --output_dir",
    )  # fmt: skip
    group.add_argument(
        "--no_metadata", action="store_true",
        help="omit tags, dates, places, covers, EXIF and XMP; sound, subtitles and chapters stay",
    )  # fmt: skip
    group.add_argument(
        "--no_record", action="store_true", help="omit the JSON of settings, versions and times beside the result"
    )
    group.add_argument(
        "--preview", type=int, metavar="N",
        help="restore N frames of each file as pictures, show input and result in NAME.preview.png, and stop",
    )  # fmt: skip


def add_form(group: argparse._ArgumentGroup) -> None:
    """Add flags for the depth, codec and colour of the result."""
    group.add_argument(
        "--bit_depth", choices=("auto", "8", "10", "12", "16"), default="auto",
        help="bits per sample; auto: 8 for clips of 8 bits, 10 for deeper clips, the file's depth for pictures",
    )  # fmt: skip
    group.add_argument(
        "--codec", choices=CODECS, default="auto",
        help="codec of clips; auto: h264 for 8 bits, hevc for 10 and 12, ffv1 for 16, vp9 in webm; png: a folder",
    )  # fmt: skip
    group.add_argument(
        "--pixel_format", metavar="NAME", help="pixel format by FFmpeg's name, such as yuv422p10le or yuv444p"
    )
    group.add_argument(
        "--container", choices=CONTAINERS, help="container of clips; default: the first that holds codec and sound"
    )
    group.add_argument(
        "--encoder", choices=ENCODERS, default="cpu",
        help="nvenc: the NVIDIA GPU encodes h264, hevc or av1; faster, larger files at equal quality (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--hdr", choices=("keep", "sdr"), default="keep",
        help="what becomes of PQ and HLG: keep, or convert to BT.709 for any screen (%(default)s)",
    )  # fmt: skip


def add_devices(group: argparse._ArgumentGroup) -> None:
    """Add flags for devices and processes."""
    group.add_argument(
        "--plan", action="store_true", help="print sizes, windows, memory and seconds for every file, and stop"
    )
    group.add_argument("--device", default="auto", help="auto, cuda, cuda:1, cpu, mps or xpu (%(default)s)")
    group.add_argument(
        "--dtype", choices=DTYPE_NAMES, help="dtype of the networks; default: bfloat16 on a GPU, float32 on a CPU"
    )
    group.add_argument(
        "--gpus", type=count, default=1, metavar="N",
        help="start N processes on this machine, one per GPU, in place of torchrun (%(default)s)",
    )  # fmt: skip
    group.add_argument("--sp_size", type=int, default=1, help="number of GPUs that share one clip (%(default)s)")
    group.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS",
        help="end the job if one of its processes makes no progress for this long (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--shard_weights", action="store_true", help="shard the transformer's weights over the GPUs that share a clip"
    )


def add_memory(group: argparse._ArgumentGroup, preset: Preset) -> None:
    """Add flags for windows, shots and memory."""
    group.add_argument(
        "--window", type=int, metavar="FRAMES",
        help=f"run longer clips through the transformer in overlapping windows of this many frames; 0: no windows "
        f"({preset.window_frames})",
    )  # fmt: skip
    group.add_argument(
        "--scene_cuts", default="auto", metavar="auto|off|FILE",
        help="restore every shot separately; auto: find the cuts; FILE: a list of the shots' first frames, from 0, one "
        "per line, or a folder with NAME.cuts.csv for each file (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--write_scene_cuts", type=to_path, metavar="FILE", help="write the list of cuts, or a folder of lists"
    )
    group.add_argument(
        "--vram", type=float, metavar="GIB",
        help="limit of the GPU memory that PyTorch allocates; the driver adds about 0.5 GiB. The program chooses "
        "slices, tiles, chunks and offloading that fit and prints them with the predicted peak; if the limit is too "
        "low, it says how much is needed. Default: the free memory. No effect on a CPU",
    )  # fmt: skip
    group.add_argument(
        "--weights_8_bit", action="store_true",
        help="store the transformer's weights as 8-bit floats: half of their memory, a slightly different result",
    )  # fmt: skip


def add_model(group: argparse._ArgumentGroup, preset: Preset) -> None:
    """Add flags for sampling, the model and its YAML, and the program's operation."""
    group.add_argument("--sample_steps", type=int, metavar="N", help=f"sampling steps ({preset.steps})")
    group.add_argument(
        "--cfg_scale", type=float, metavar="X",
        help=f"scale of classifier-free guidance; 1: no guidance ({preset.cfg_scale:g})",
    )  # fmt: skip
    group.add_argument(
        "--random_weights", action="store_true",
        help="use seeded random weights, for tests: every step runs, nothing is restored",
    )  # fmt: skip
    group.add_argument("--lora", type=to_path, help="LoRA weights (.safetensors) to merge into the transformer")
    group.add_argument("--lora_scale", type=float, default=1.0, help="weight of the LoRA (%(default)s)")
    group.add_argument("--config", type=to_name, help=f"YAML of the model, in place of {preset.config}")
    group.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE",
        help="change keys of the YAML, for ablations; a change without effect is an error",
    )  # fmt: skip
    group.add_argument(
        "--no_overlap", action="store_true",
        help="read, compute and write one after the other: the same files, slower; for profiling",
    )  # fmt: skip
    group.add_argument(
        "--verbose", action="store_true", help="log backends, waits between threads, and tracebacks of errors"
    )


def parse_flags(
    preset: Preset, arguments: Sequence[str] | None = None, command: str | None = None
) -> argparse.Namespace:
    """Parse the flags of a run; None: those of the process. Wrong flags end the process, as usual for argparse."""
    p = parser(preset, command)
    args = p.parse_args(arguments)
    if args.output_dir is None:
        if not args.plan:
            p.error("the following arguments are required: --output_dir")
        args.output_dir = Path()
    return args
