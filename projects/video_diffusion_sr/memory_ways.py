"""What a way of running is made of, and what it has to carry: a plan and a workload."""

from dataclasses import dataclass

from models.nadit.config import NaDiTConfig
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL


@dataclass(frozen=True)
class MemoryPlan:
    """How a clip is run.

    vae_frames: most frames at full resolution that go through the VAE's widest level at once; None: a whole slice.
    conv_max_mem: the same as a bound for `VideoAutoencoderKL.set_memory_limit`, GiB.
    rolls: which pictures the VAE takes by fours or one by one, one of `rolling.ROLLS`; None: as it does unasked.
    fours: by fours, which is quicker (`fours.py`); False: one by one.
    lean: one by one, and two frames are kept for the next one instead of three, see `rolling.LeanRing`.
    slice_frames: frames of the pipeline's slices after the first; None: as many as it would take anyway.
    tile: side of the VAE's tiles in latents; None: the whole picture.
    token_chunk: most tokens in a feed-forward layer at once; None: all.
    offload: "none": both networks stay on the device; "models": one at a time; "blocks": the transformer's blocks one
        after the other.
    prefetch: the transformer's weights travel while the VAE still encodes.
    park: what the VAE carries from slice to slice of a long clip waits on the host while others compute.
    storage_8_bit: keep the transformer's weights as 8-bit floats between uses.
    predicted: peak of "encode", "transformer", "decode", GiB.
    """

    vae_frames: int | None = None
    conv_max_mem: float | None = None
    rolls: str | None = None
    fours: bool = True
    lean: bool = False
    slice_frames: int | None = None
    tile: int | None = None
    token_chunk: int | None = None
    offload: str = "none"
    prefetch: bool = False
    park: bool = False
    storage_8_bit: bool = False
    predicted: tuple[tuple[str, float], ...] = ()

    @property
    def predicted_peak_gib(self) -> float:
        return max((gib for _, gib in self.predicted), default=0.0)

    @property
    def cuts(self) -> bool:
        """Does it do anything that unbounded memory would not need?"""
        return self != MemoryPlan(storage_8_bit=self.storage_8_bit, predicted=self.predicted)

    def describe(self) -> str:
        """One line for the user."""
        parts = [
            {"none": "both networks stay on the device", "models": "one network at a time on the device"}.get(
                self.offload, "the transformer's blocks travel one after the other"
            )
        ]
        parts += [f"slices of {self.slice_frames} frames"] if self.slice_frames else []
        one = "frame" if self.vae_frames == 1 else "frames"
        parts += [
            "VAE slices whole" if self.vae_frames is None else f"VAE at most {self.vae_frames} {one} at full size"
        ]
        parts += [f"pictures that do not go by slices: {self.rolls}"] if self.rolls else []
        parts += ["its large levels frame by frame, in bands of rows"] if self.lean else []
        parts += ["its large levels frame by frame"] if not (self.fours or self.lean) else []
        parts += [f"VAE tiles of {self.tile} latents (not exact)"] if self.tile else []
        parts += [f"{self.token_chunk} tokens at once in feed-forward layers"] if self.token_chunk else []
        parts += ["carried frames wait on the host"] if self.park else []
        parts += ["8-bit weights (not exact)"] if self.storage_8_bit else []
        peaks = ", ".join(f"{stage} {gib:.1f}" for stage, gib in self.predicted)
        return f"{'; '.join(parts)}; predicted peak {self.predicted_peak_gib:.1f} GiB ({peaks})"


def by_fours(way: MemoryPlan) -> bool:
    """May large pictures go through the VAE by fours?"""
    return way.fours and not way.lean and (way.conv_max_mem is None or way.rolls is not None)


@dataclass(frozen=True)
class Workload:
    """A clip and the networks it goes through.

    dit_bytes, vae_bytes: of the weights in the dtype they compute in.
    frames, height, width: padded, pixels; of a streamed clip the longest window.
    itemsize: bytes of a number.
    streamed: the clip comes and goes in slices; otherwise its pixels lie on the device.
    slice_frames: frames of a slice after the first; None: the VAE's own.
    long: more windows follow the first, so what both halves of the VAE carry is kept meanwhile.
    source: pixels of a frame before it is resized.
    texts: embeddings with a layout each; two with guidance.
    ranks: that share the clip. sharded: each has a part of the transformer's weights.
    storage_8_bit: the user wants the transformer's weights kept as 8-bit floats.
    """

    vae: VideoAutoencoderKL
    dit: NaDiTConfig
    dit_bytes: int
    vae_bytes: int
    frames: int
    height: int
    width: int
    itemsize: int = 2
    streamed: bool = False
    slice_frames: int | None = None
    long: bool = False
    source: int = 0
    texts: int = 1
    ranks: int = 1
    sharded: bool = False
    storage_8_bit: bool = False

    @property
    def pixels(self) -> int:
        return self.height * self.width
