"""The flags of the inference scripts. Nothing here imports PyTorch, so `--help` and a wrong flag answer at once."""

import argparse
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from common.distributed.timeout import TIMEOUT_S
from data.media.stretch import frames_of, seconds_of
from projects.video_diffusion_sr.presets import Preset

ROOT = Path(__file__).resolve().parents[2]
DTYPE_NAMES = ("bfloat16", "float16", "float32")  # of request.DTYPES
FRAMES_OUT = ("png",)  # sequence_writer.FRAMES_OUT
CODECS = ("auto", "h264", "hevc", "av1", "prores", "ffv1", "png")  # data.media.codecs.CODECS
CONTAINERS, ENCODERS = ("mp4", "mov", "mkv"), ("cpu", "nvenc")
COLOR_FIXES = ("wavelet", "lab", "adain", "none")  # color_fix.KINDS


def parser(preset: Preset, command: str | None = None) -> argparse.ArgumentParser:
    """The flags of the reference, with their meaning, and what users expect beside them.

    command: what the user types to get here; None: the preset's script.
    """
    script = command or f"projects/inference_{preset.name.lower().replace('-', '_')}.py"
    start = script if command else f"python {script}"
    p = argparse.ArgumentParser(
        prog=script,
        description=f"Restore videos and pictures with {preset.name}.",
        epilog=f"example: {start} --video_path clips --output_dir restored --res_h {preset.res[0]} "
        f"--res_w {preset.res[1]}\nOn several GPUs add --gpus N, or put torchrun --nproc-per-node=N in front.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = p.add_argument_group("files (paths are relative to where you stand)")
    files.add_argument(
        "--video_path",
        type=Path,
        required=True,
        help="a video or picture, or a folder of them; numbered pictures as frame_%%05d.png",
    )
    files.add_argument("--output_dir", type=Path, help="folder for the results; made if missing; --plan needs none")
    files.add_argument(
        "--recursive", action="store_true", help="search folders in the folder too; results keep the structure"
    )
    files.add_argument(
        "--frames_as_clip", action="store_true",
        help="a folder of numbered pictures is one clip; without this, only folders in the folder are, if all in them "
        "looks like frames",
    )  # fmt: skip
    files.add_argument("--start", type=_time, metavar="TIME", help="restore from here on: seconds, or hh:mm:ss.ms")
    files.add_argument("--end", type=_time, metavar="TIME", help="up to here; sound and chapters follow")
    files.add_argument(
        "--frames", type=_frames, metavar="N | A:B", help="N frames, or frame A up to B, which is left out; from 0"
    )
    exists = files.add_mutually_exclusive_group()
    exists.add_argument("--overwrite", action="store_true", help="replace results that exist")
    exists.add_argument(
        "--skip_existing", action="store_true", help="leave results that exist and go on; resumes a run"
    )
    files.add_argument(
        "--no_resume", action="store_true",
        help="begin every file anew; without this, what an interrupted run has finished of a long clip is kept beside "
        "the result, and the same command goes on there",
    )  # fmt: skip
    files.add_argument(
        "--ckpt_dir", type=Path, default=ROOT / "ckpts", help="folder of weights and prompt embeddings (default: ckpts)"
    )
    files.add_argument("--checkpoint", type=Path, metavar="FILE", help="the transformer's weights, wherever they lie")
    files.add_argument("--vae_checkpoint", type=Path, metavar="FILE", help="the VAE's weights, wherever they lie")

    result = p.add_argument_group("result")
    result.add_argument("--res_h", type=int, default=preset.res[0], help="height of the wanted area (%(default)s)")
    result.add_argument(
        "--res_w", type=int, default=preset.res[1], help="its width (%(default)s); the aspect ratio stays the file's"
    )
    one = result.add_mutually_exclusive_group()
    one.add_argument("--scale", type=float, metavar="FACTOR", help="instead: so many times the size of the file")
    one.add_argument("--short_side", type=int, metavar="PIXELS", help="instead: the shorter side of the result")
    one.add_argument("--size", type=_exact_size, metavar="WxH", help="instead: exactly this width and height")
    result.add_argument("--seed", type=int, default=666, help="same seed, same file: same result (%(default)s)")
    result.add_argument(
        "--color_fix",
        choices=COLOR_FIXES,
        default="wavelet",
        help="colours of the input (%(default)s)",
    )
    result.add_argument(
        "--strength",
        type=float,
        default=1.0,
        help="1: the restored clip, 0: the resized input; less than 1 against over-sharpening, fine detail first",
    )
    result.add_argument(
        "--out_fps",
        type=_rate,
        help="play at this rate, such as 24 or 30000/1001; default: as the file; numbered pictures: 24",
    )
    result.add_argument(
        "--crf", type=float,
        help="quality of H.264, HEVC and AV1, lower is better and larger; default: visually lossless",
    )  # fmt: skip
    result.add_argument(
        "--frames_out", choices=FRAMES_OUT, help="of clips, folders of pictures (NAME/frame_00001.png, ...)"
    )
    result.add_argument("--fit", choices=["pad", "crop"], default="pad", help="pad: exact size; crop: as the reference")
    result.add_argument(
        "--deinterlace", choices=["auto", "always", "never"], default="auto", help="old tape; auto: where it is marked"
    )
    result.add_argument("--compare", action="store_true", help="also write a side-by-side clip and a contact sheet")
    result.add_argument(
        "--report", nargs="?", const=True, metavar="FILE.html",
        help="also write a page about the run: figures, sliders between input and result, flicker, what was said; "
        "default: report.html in --output_dir",
    )  # fmt: skip
    result.add_argument(
        "--no_metadata", action="store_true",
        help="leave out tags, dates, places, covers, EXIF and XMP; sound, subtitles and chapters stay",
    )  # fmt: skip
    result.add_argument(
        "--no_record", action="store_true", help="no JSON of settings, versions, weights and times beside the result"
    )

    result.add_argument(
        "--preview", type=int, metavar="N",
        help="restore N frames of each file, each as a picture, show them in NAME.preview.png, and stop",
    )  # fmt: skip

    form = p.add_argument_group("depth, codec and colour of the result (docs/color.md says what goes together)")
    form.add_argument(
        "--bit_depth", choices=("auto", "8", "10", "12", "16"), default="auto",
        help="bits of a sample; auto: 8 of 8, 10 of more, and pictures as they are",
    )  # fmt: skip
    form.add_argument(
        "--codec", choices=CODECS, default="auto",
        help="of clips; auto: h264 for 8 bits, hevc for 10 and 12, ffv1 for 16; png: as --frames_out png",
    )  # fmt: skip
    form.add_argument("--pixel_format", metavar="NAME", help="FFmpeg's name, such as yuv422p10le or yuv444p")
    form.add_argument(
        "--container", choices=CONTAINERS, help="of clips; default: the first that takes codec and sound as they are"
    )
    form.add_argument(
        "--encoder", choices=ENCODERS, default="cpu",
        help="nvenc: the NVIDIA GPU encodes h264, hevc or av1, quicker and larger for the same quality (%(default)s)",
    )  # fmt: skip
    form.add_argument(
        "--hdr", choices=("keep", "sdr"), default="keep",
        help="PQ and HLG: as they came, or as BT.709 for any screen (%(default)s)",
    )  # fmt: skip

    run = p.add_argument_group("how it runs")
    run.add_argument(
        "--plan", action="store_true", help="say sizes, windows, memory and seconds of every file, and stop"
    )
    run.add_argument("--device", default="auto", help="auto, cuda, cuda:1, cpu, mps or xpu (%(default)s)")
    run.add_argument("--dtype", choices=DTYPE_NAMES, help="of the networks; default: bfloat16 on GPUs, float32 on CPU")
    run.add_argument(
        "--gpus", type=_count, default=1, metavar="N",
        help="start N processes on this machine, one a GPU, and end as they do, in place of torchrun (%(default)s)",
    )  # fmt: skip
    run.add_argument("--sp_size", type=int, default=1, help="GPUs that share one clip (%(default)s)")
    run.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS",
        help="a process of a job that is silent for so long ends it (%(default)s)",
    )  # fmt: skip
    run.add_argument(
        "--shard_weights", action="store_true", help="spread the transformer's weights over the GPUs of --sp_size"
    )
    run.add_argument(
        "--window", type=int, metavar="FRAMES",
        help=f"longer clips go through the transformer in overlapping windows of this many frames; 0: never "
        f"({preset.window_frames})",
    )  # fmt: skip
    run.add_argument(
        "--scene_cuts", default="auto", metavar="auto|off|FILE",
        help="shots are restored each by itself: auto finds the cuts; FILE lists the numbers of shots' first frames, "
        "from 0 at --start, one a line, or is a folder with NAME.cuts.csv for each file (%(default)s)",
    )  # fmt: skip
    run.add_argument(
        "--write_scene_cuts", type=Path, metavar="FILE", help="write that list, or of many files lists into a folder"
    )
    run.add_argument(
        "--vram", type=float, metavar="GIB",
        help="GPU memory to stay within: what PyTorch's allocator takes, to which the driver adds some 0.5 GiB. "
        "Slices, tiles, chunks and offload are chosen to fit, and printed with the predicted peak; too little is "
        "refused with what would do. default: what is free, and all stays on the GPU if it fits. No effect on a CPU",
    )  # fmt: skip
    run.add_argument(
        "--weights_8_bit", action="store_true",
        help="keep the transformer's weights as 8-bit floats: half of their memory, a slightly different result",
    )  # fmt: skip
    run.add_argument("--sample_steps", type=int, metavar="N", help=f"network calls ({preset.steps})")
    run.add_argument("--cfg_scale", type=float, metavar="X", help=f"guidance, 1 is none ({preset.cfg_scale:g})")
    run.add_argument(
        "--random_weights", action="store_true",
        help="seeded random weights in place of trained ones: every step is done, nothing is restored; for tests",
    )  # fmt: skip
    run.add_argument("--lora", type=Path, help="LoRA weights (.safetensors) to merge into the transformer")
    run.add_argument("--lora_scale", type=float, default=1.0, help="how strongly (%(default)s)")
    run.add_argument("--config", help=f"another YAML than {preset.config}")
    run.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE",
        help="change YAML keys, for ablations; one that would change nothing is refused",
    )  # fmt: skip
    run.add_argument(
        "--no_overlap", action="store_true",
        help="read, compute and write one after the other: the same files, slower; to find out where time goes",
    )  # fmt: skip
    run.add_argument(
        "--verbose",
        action="store_true",
        help="say which backends are used, which thread waited, and where errors come from",
    )
    return p


def parse_flags(
    preset: Preset, arguments: Sequence[str] | None = None, command: str | None = None
) -> argparse.Namespace:
    """The flags of a run, of the process's own arguments where none are given; ends the process for wrong ones."""
    p = parser(preset, command)
    args = p.parse_args(arguments)
    if args.output_dir is None:
        if not args.plan:
            p.error("the following arguments are required: --output_dir")
        args.output_dir = Path()
    return args


def _exact_size(text: str) -> tuple[int, int]:
    """(height, width) from WIDTHxHEIGHT."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1920x1080")
    return int(height), int(width)


def _count(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _time(text: str) -> Fraction:
    try:
        return seconds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _frames(text: str) -> tuple[int, int | None]:
    try:
        return frames_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a frame rate such as 25 or 30000/1001") from error
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"a frame rate of {text} is not possible")
    return rate
