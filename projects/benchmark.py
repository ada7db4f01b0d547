"""How fast and how large: encode, transformer, decode, colour fix and the whole, for any preset and size.

python projects/benchmark.py --preset seedvr2_tiny --res_h 128 --res_w 192 --frames 9 --random_weights
python projects/benchmark.py --preset seedvr2_3b --res_h 720 --res_w 1280 --frames 97 --random_weights --json run.json
python projects/benchmark.py --preset seedvr2_3b --res_h 720 --res_w 1280 --frames 97 --sp_size 2 4 8
"""

import argparse
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from models.video_vae_v3.modules.rolling import ROLLS
from torch import Tensor

from common.config import load_config
from models.video_vae_v3.modules.attn_video_vae import split_after_first
from models.video_vae_v3.modules.fold import release_filters
from models.video_vae_v3.modules.tiling import decode_tiled, encode_tiled
from projects.benchmarking.counting import TEXT_TOKENS, dit_flops, vae_flops
from projects.benchmarking.networks import build_networks
from projects.benchmarking.pixels import HostPixels, as_clip
from projects.benchmarking.profiling import profile
from projects.benchmarking.timing import known_operations, median_seconds, peak_gib
from projects.video_diffusion_sr.color_fix import fix_colour
from projects.video_diffusion_sr.communication import describe
from projects.video_diffusion_sr.geometry import to_8_bit
from projects.video_diffusion_sr.memory_plan import (
    TILE_OVERLAP,
    MemoryPlan,
    Workload,
    install,
    plan,
    predict,
    weight_bytes,
)
from projects.video_diffusion_sr.memory_ways import by_fours
from projects.video_diffusion_sr.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
STAGES = ("encode", "transformer", "decode", "finish", "whole")
PEAK_TFLOPS = 790.0  # a large bf16 matrix product on one H200: the floors are counted with it


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="seedvr2_3b")
    parser.add_argument("--res_h", type=int, default=720, help="output height, a multiple of 16")
    parser.add_argument("--res_w", type=int, default=1280, help="output width, a multiple of 16")
    parser.add_argument("--frames", type=int, default=97, help="4n + 1; 1 is an image")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="default: bfloat16 on CUDA, float32 on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--random_weights", action="store_true", help="random weights of the real shapes, no checkpoint"
    )
    parser.add_argument("--ckpt_dir", type=Path, default=ROOT / "ckpts")
    parser.add_argument("--split_size", type=int, help="frames that go through the VAE at once, after the first")
    parser.add_argument("--conv_max_mem", type=float, help="GiB that a convolution's input may take at most")
    parser.add_argument(
        "--rolls",
        choices=ROLLS,
        help="which pictures do not go through the VAE by slices: off (none), full (size), large, all; default: large "
        "ones on CUDA",
    )
    parser.add_argument("--one_by_one", action="store_true", help="these go one by one instead of by fours")
    parser.add_argument("--lean", action="store_true", help="one by one, and two frames are kept instead of three")
    parser.add_argument("--vram", type=float, help="GiB of device memory to stay within")
    parser.add_argument("--runs", type=int, default=3, help="runs whose median is reported")
    parser.add_argument("--warm_up", type=int, default=1, help="runs before those that are timed")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="which to time")
    parser.add_argument(
        "--quick", action="store_true", help="one run of each stage after those to warm up; whole = sum"
    )
    parser.add_argument("--plain", action="store_true", help="the reference paths, without own kernels and folds")
    parser.add_argument("--kernels", action="store_true", help="also time each own kernel against its reference")
    parser.add_argument("--convolutions", action="store_true", help="also time the VAE's convolutions called in turns")
    parser.add_argument(
        "--sp_size", type=int, nargs="+", default=[], help="only count what so many ranks would send; nothing is run"
    )
    parser.add_argument(
        "--profile", type=Path, help="write to this file each stage's kernels by time, and when the device waited"
    )
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    return parser.parse_args(arguments)


class Stages:
    """The four stages of one clip, each a function of what the one before left."""

    def __init__(self, vae, dit, config, clip: Tensor, dtype: torch.dtype, way: MemoryPlan) -> None:
        self.vae, self.dit, self.scaling = vae, dit, config.vae.scaling_factor
        self.device, self.dtype, self.way = clip.device, dtype, way
        if not by_fours(way):
            release_filters(vae)
        self.residency = install(way, vae, dit, clip.device)
        self.pixels = HostPixels(clip)
        generator = torch.Generator(clip.device).manual_seed(1)
        width = config.dit.model.txt_in_dim
        self.text = torch.randn(TEXT_TOKENS, width, device=clip.device, generator=generator).to(dtype)
        self.latents = self.restored = self.noise = None

    def encode(self) -> None:
        with self.residency.use("vae", "dit" if self.way.prefetch else None):
            if self.way.tile is None:
                memory = self.vae.new_memory(keep=len(self.pixels.clip) > 1)
                parts = [self.vae.encode_slice(x, memory) for x in self.pixels.slices(self.vae.split_size)]
                moments = torch.cat(parts, 2)
            else:
                moments = encode_tiled(self.vae, as_clip(self.pixels.clip), self.way.tile, TILE_OVERLAP)
        self.latents = moments[0, : self.vae.latent_channels].permute(1, 2, 3, 0) * self.scaling  # t h w c
        self.latents = self.latents.to(self.device)

    def transformer(self) -> None:
        """One step: the layout is built once a clip, so it is part of the time."""
        with nullcontext() if self.way.offload == "blocks" else self.residency.use("dit"):
            shape = tuple(self.latents.shape[:3])
            noise = self.start(self.latents)
            tokens = torch.cat([noise, self.latents, torch.ones_like(noise[..., :1])], -1).flatten(0, 2)
            layout = self.dit.layout([shape], [len(self.text)], tokens.device)
            velocity = self.dit(tokens, self.text, [shape], [[len(self.text)]], 1000.0, layout=layout).vid_sample
            self.restored = noise - velocity.unflatten(0, shape)

    def start(self, latents: Tensor) -> Tensor:
        """The noise to start from, the same numbers in every dtype."""
        if self.noise is None:
            generator = torch.Generator(latents.device).manual_seed(3)
            self.noise = torch.randn(latents.shape, device=latents.device, generator=generator)
        return self.noise.to(latents)

    def decode(self) -> None:
        z = (self.restored / self.scaling).permute(3, 0, 1, 2)[None].to(self.dtype)
        with self.residency.use("vae"):
            if self.way.tile is not None:
                self.pixels.keep(0, decode_tiled(self.vae, z, self.way.tile, TILE_OVERLAP))
                return
            parts = split_after_first(z, self.vae.split_size and self.vae.split_size // self.vae.temporal_factor)
            memory, start = self.vae.new_memory(keep=z.shape[2] > 1), 0
            for part in parts:
                frames = self.vae.decode_slice(part, memory)
                self.pixels.keep(start, frames)
                start += frames.shape[2]
            self.pixels.arrive()

    @property
    def frames(self) -> Tensor:
        """The result, [1, 3, T, H, W]."""
        return as_clip(self.pixels.frames)

    def finish(self) -> None:
        """Colour fix and 8-bit conversion, a slice of frames at a time."""
        for part, style in zip(self.pixels.frames.split(4), self.pixels.clip.split(4), strict=True):
            part, style = (x.to(self.device, non_blocking=True) for x in (part, style))
            to_8_bit(fix_colour("wavelet", part, style)).cpu()

    def whole(self) -> None:
        self.encode()
        self.transformer()
        self.decode()


def measure(args: argparse.Namespace) -> dict:
    """Everything that the table shows, as numbers: seconds, GiB, TFLOP/s, shares of the floor."""
    device = torch.device(args.device)
    dtype = DTYPES[args.dtype or ("bfloat16" if device.type == "cuda" else "float32")]
    preset = PRESETS[args.preset]
    vae, dit, config = build_networks(
        preset, device, dtype, random_weights=args.random_weights, plain=args.plain, ckpt_dir=args.ckpt_dir
    )
    if args.split_size:
        vae.set_causal_slicing(args.split_size)
    shape = (1, 3, args.frames, args.res_h, args.res_w)
    clip = torch.rand(shape, device=device, generator=torch.Generator(device).manual_seed(2)).mul(2).sub(1).to(dtype)
    way = choose(args, vae, dit, clip)
    if way.slice_frames and way.tile is None:
        vae.set_causal_slicing(way.slice_frames)
    stages = Stages(vae, dit, config, clip, dtype, way)
    del clip
    result = {
        "plan": way.describe(),
        "arguments": {k: str(v) for k, v in vars(args).items()},
        "torch": torch.__version__,
        "stages": {},
    }
    if device.type == "cuda":
        result["device"] = torch.cuda.get_device_name(device)
    result["known"] = known_operations(device, dtype)
    flops = vae_flops(config.vae.model, *shape[2:])
    latent = ((args.frames - 1) // vae.temporal_factor + 1, *(n // vae.spatial_factor for n in shape[3:]))
    flops["transformer"] = dit_flops(config.dit.model, latent)
    flops["whole"] = sum(flops.values())
    time_stages(stages, args, flops, result["stages"])
    if args.profile:
        args.profile.write_text(profile({name: getattr(stages, name) for name in STAGES if name != "whole"}, device))
    return result


def time_stages(stages: Stages, args: argparse.Namespace, flops: dict[str, float], rows: dict[str, dict]) -> None:
    """Fill `rows`, one for every stage that was asked for."""
    for name in STAGES:
        if name not in args.stages:
            if name in ("encode", "transformer"):  # the others need what it leaves
                getattr(stages, name)()
            continue
        if name == "whole" and args.quick:
            parts = [rows.get(stage) for stage in ("encode", "transformer", "decode")]
            if None in parts:
                continue
            entry = sum_of(parts)
        else:
            with peak_gib(stages.device) as peak:
                runs = 1 if args.quick else args.runs
                seconds = median_seconds(getattr(stages, name), stages.device, runs, args.warm_up)
                entry = {"seconds": seconds, "peak_gib": peak()}
        if name in flops:
            entry["tflop"] = flops[name] / 1e12
            entry["tflop_s"] = entry["tflop"] / entry["seconds"]
            entry["share_of_floor"] = entry["tflop_s"] / PEAK_TFLOPS
        rows[name] = entry


def sum_of(entries: list[dict]) -> dict:
    """The whole from its stages: seconds added, the largest peak."""
    return {
        "seconds": sum(entry["seconds"] for entry in entries),
        "peak_gib": max(entry["peak_gib"] for entry in entries),
    }


def choose(args: argparse.Namespace, vae, dit, clip: Tensor) -> MemoryPlan:
    """The plan for --vram, or everything resident; with the predicted peaks either way."""
    work = Workload(
        vae, dit.config, weight_bytes(dit), weight_bytes(vae), *clip.shape[2:], clip.element_size(), streamed=True
    )
    if args.vram is not None:
        return plan(args.vram, work)
    way = MemoryPlan(conv_max_mem=args.conv_max_mem, rolls=args.rolls, fours=not args.one_by_one, lean=args.lean)
    return replace(way, predicted=tuple(predict(way, work).items()))


def table(result: dict) -> str:
    """The stages as rows."""
    lines = [f"{'stage':<12} {'seconds':>9} {'peak GiB':>9} {'TFLOP':>9} {'TFLOP/s':>8} {'of floor':>8}"]
    for name, row in result["stages"].items():
        line = f"{name:<12} {row['seconds']:9.3f} {row['peak_gib']:9.2f}"
        if "tflop" in row:
            line += f" {row['tflop']:9.2f} {row['tflop_s']:8.2f} {row['share_of_floor']:8.1%}"
        lines.append(line)
    known = ", ".join(f"{name} {value:.3g}" for name, value in result["known"].items())
    lines.append(f"plan: {result['plan']}")
    return "\n".join([*lines, f"known operations in this run: {known}"])


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.sp_size:
        config = load_config(ROOT / PRESETS[args.preset].config)
        print(describe(config, args.frames, (args.res_h, args.res_w), args.sp_size))
        return 0
    if args.plain:
        os.environ["SEEDVR_KERNELS"] = "plain"
    with torch.inference_mode():
        result = measure(args)
        print(table(result))
        if args.kernels:
            from projects.benchmarking.kernels import kernel_table, measure_kernels

            result["kernels"] = measure_kernels(torch.device(args.device))
            print(kernel_table(result["kernels"]))
        if args.convolutions:
            from projects.benchmarking.convolutions import convolution_table, measure_convolutions

            result["convolutions"] = measure_convolutions(torch.device(args.device))
            print(convolution_table(result["convolutions"]))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
