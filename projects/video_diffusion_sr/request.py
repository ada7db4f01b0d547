"""The user's request: the settings of a run, for all its files."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from data.media import ClipRange, OutputOptions
from data.media.video_reader import Deinterlace
from projects.video_diffusion_sr.geometry import Fit
from projects.video_diffusion_sr.output_size import OutputSize
from projects.video_diffusion_sr.scene_cuts import SceneCuts

ROOT = Path(__file__).resolve().parents[2]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class ResultOptions:
    """The user's choices for the result.

    color_fix: one of `color_fix.KINDS`.
    strength: 1 is the restored clip, 0 the resized input.
    compare: also write a side-by-side clip and a contact sheet.
    frames_out: "png": write a folder of pictures instead of a clip.
    page_bytes: bytes of pictures of a file on the page of `--report`; None: there is no page.
    output: codec, depth, frame rate and metadata.
    """

    color_fix: str = "wavelet"
    strength: float = 1.0
    compare: bool = False
    frames_out: str | None = None
    page_bytes: int | None = None
    output: OutputOptions = field(default_factory=OutputOptions)

    @property
    def pairs(self) -> bool:
        """Whether a comparison or the page shows the resized input beside the result."""
        return self.compare or self.page_bytes is not None

    @property
    def stored(self) -> OutputOptions:
        """`output`, with the codec that `frames_out` implies."""
        return replace(self.output, codec="png") if self.frames_out else self.output


@dataclass(frozen=True)
class Request:
    """The settings of one run. If a field is None, the preset or its YAML decides.

    res: (height, width) whose product is the area of the result; the aspect ratio is the file's.
    seed: seed of all noise.
    device: name of the device; "auto": CUDA if there is a device.
    size: replaces `res`, see `OutputSize`.
    fit: see `Geometry`.
    dtype: dtype of both networks.
    steps, cfg_scale: number of sampling steps, and guidance scale.
    window_frames: number of frames that the transformer takes at once; 0: always the whole clip.
    ckpt_dir: folder of weights and prompt embeddings.
    checkpoint, vae_checkpoint: weight files that replace those in `ckpt_dir`.
    config, overrides: another YAML, and changes `key=value` to it.
    lora, lora_scale: a file of LoRA weights, and the factor of its change.
    shard_weights: shard the transformer's weights over the ranks that share a clip.
    vram: limit of GPU memory in GiB.
    weights_8_bit: store the transformer's weights as 8-bit floats.
    random_weights: use seeded random weights and prompts; `ckpt_dir` is not read.
    overlap: read and write in separate threads.
    resume: keep finished segments of a file until it is complete, so that a later run can continue after them.
    deinterlace: see `open_media`.
    clip_range: the part of each clip that is restored.
    cuts: the settings of scene cuts.
    result_options: options for the form of results.
    """

    res: tuple[int, int]
    seed: int = 666
    device: str = "auto"
    dtype: str | None = None
    fit: Fit = "pad"
    steps: int | None = None
    cfg_scale: float | None = None
    window_frames: int | None = None
    ckpt_dir: Path = ROOT / "ckpts"
    checkpoint: Path | None = None
    vae_checkpoint: Path | None = None
    size: OutputSize | None = None
    config: str | None = None
    overrides: tuple[str, ...] = ()
    lora: Path | None = None
    lora_scale: float = 1.0
    shard_weights: bool = False
    vram: float | None = None
    weights_8_bit: bool = False
    random_weights: bool = False
    deinterlace: Deinterlace = "auto"
    clip_range: ClipRange = field(default_factory=ClipRange)
    cuts: SceneCuts = field(default_factory=SceneCuts)
    overlap: bool = True
    resume: bool = True
    result_options: ResultOptions = field(default_factory=ResultOptions)
