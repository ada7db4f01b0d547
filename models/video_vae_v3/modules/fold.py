"""Derives weights for faster inference from the loaded ones: exact algebra, rounded once.

It uses two identities, derived in docs/performance.md:
- The first frame of a clip also takes the place of its past, so a causal convolution of it is a 2-D convolution with
  the weights summed over time.
- A 1x1x1 convolution to C * r channels, a pixel shuffle and a causal 3x3x3 convolution equal one transposed convolution
  at low resolution plus a bias. The bias depends on the pixel's phase and on whether it is at the border, because the
  3x3x3 convolution pads with zeros after the 1x1x1 convolution has added its bias.
"""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Protocol

import torch
from torch import Tensor, nn

from models.video_vae_v3.modules.blocks import Upsample
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.decoder import Decoder3D, UpDecoderBlock3D
from models.video_vae_v3.modules.encoder import DownEncoderBlock3D, Encoder3D
from models.video_vae_v3.modules.schedule import F43
from models.video_vae_v3.modules.winograd import prepare_conv as prepare_winograd
from models.video_vae_v3.modules.winograd import prepare_upsample as prepare_winograd_upsample

# For each class of output row or column (first, odd, even, last): the taps of a kernel of three that lie inside the
# picture, each with the sub-position (0 or 1) of the enlarged pixel that it multiplies.
_BORDER_TAPS = (
    ((1, 0), (2, 1)),
    ((0, 0), (1, 1), (2, 0)),
    ((0, 1), (1, 0), (2, 1)),
    ((0, 0), (1, 1)),
)


class Autoencoder(Protocol):
    """The attributes of a VAE that this module uses."""

    encoder: Encoder3D
    decoder: Decoder3D

    def modules(self) -> Iterator[nn.Module]: ...


def prepare_inference(vae: Autoencoder, winograd: Iterable[int] = (F43,)) -> None:
    """Derive the weights of the inference path. Call it on float32 weights, before the model is cast.

    The derived weights are non-persistent buffers, so the names and values of the state dict do not change. They are
    not updated when the weights change: call this again after training.

    On the meta device, on which memory is planned, only shapes are derived, because arithmetic there imports torch's
    compiler, which takes two seconds.

    Args:
        winograd: the values of m for which schedules will use F(m, 3).
    """
    for module in vae.modules():
        if isinstance(module, CausalConv3d):
            prepare_conv(module)
    fold_upsamplers(vae)
    sizes = tuple(winograd)
    for down in vae.encoder.down_blocks[:-1]:  # the smallest pictures gain little
        prepare_level(down, sizes)
    for up in vae.decoder.up_blocks[1:]:
        prepare_level(up, sizes)


def is_prepared(vae: Autoencoder) -> bool:
    """Whether `prepare_inference` has derived the weights of the inference path."""
    return "derived_first" in vae.decoder.conv_in._buffers


@torch.no_grad()
def prepare_conv(conv: CausalConv3d) -> None:
    """Derive a convolution's weights for the clip's first frame, and store its own weights in channels-last order."""
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last_3d)
    weight = conv.weight
    summed = (
        weight.new_empty(*weight.shape[:2], *weight.shape[3:]) if weight.is_meta else wide(weight).sum(2).to(weight)
    )
    first = summed.contiguous(memory_format=torch.channels_last)
    conv.register_buffer("derived_first", first, persistent=False)


def prepare_level(block: DownEncoderBlock3D | UpDecoderBlock3D, sizes: tuple[int, ...]) -> None:
    """Derive the Winograd weights F(m, 3) of a level for every m of `sizes`."""
    for resnet in block.resnets:
        prepare_winograd(resnet.conv1, sizes)
        prepare_winograd(resnet.conv2, sizes)
    for up in block.upsamplers if isinstance(block, UpDecoderBlock3D) else ():
        if up.time_factor == 1:
            prepare_winograd_upsample(up, sizes)


def fold_upsamplers(vae: Autoencoder) -> None:
    """Fold every `Upsample` of `vae`, see `fold_upsample`."""
    for module in vae.modules():
        if isinstance(module, Upsample):
            fold_upsample(module)


@torch.no_grad()
def fold_upsample(up: Upsample) -> None:
    """Derive the transposed convolution of one upsampler, in float64, as buffers in the dtype of its weights.

    With z = 2 if time doubles, else 1:
        derived_folded: [C, C, z + 2, 4, 4], for all frames but those below.
        derived_after: the same for the frame after the clip's first one; exists if time doubles.
        derived_alone: [C, C, 4, 4], for the clip's first frame.
        derived_table: bias of `derived_folded`, [z, 4, 4, C], see `frame_norm.add_phase_bias`.
        derived_table_after: bias of `derived_after`, [2, 4, 4, C].
        derived_table_alone: bias of `derived_alone`, [1, 4, 4, C].
    """
    z = up.time_factor
    if up.conv.weight.is_meta:
        _fold_shapes(up)
        return
    taps = wide(up.conv.weight)  # o c 3 3 3
    subs = wide(up.upscale_conv.weight).flatten(1).unflatten(0, (2, 2, z, -1))  # x y z c i
    steps = _spatial_taps(taps, subs)  # [time tap][sub-frame] -> i o 4 4
    channels = taps.shape[0]
    folded = taps.new_zeros(channels, channels, z + 2, 4, 4)
    for a, s in product(range(3), range(z)):
        folded[:, :, s - a + 2] += steps[a][s]
    _store(up, "folded", folded, torch.channels_last_3d)
    alone = steps[0][0] + steps[1][0] + steps[2][0]
    _store(up, "alone", alone, torch.channels_last)
    if z == 2:
        after = folded.clone()
        after[:, :, 2] = steps[0][0] + steps[1][0]  # output frame 1 reads the first frame's only sub-frame twice
        after[:, :, 3] = steps[0][0]
        _store(up, "after", after, torch.channels_last_3d)
    rows = [[(frame + a) % z for a in range(3)] for frame in range(z)]
    tables = {"table": rows, "table_alone": [[0, 0, 0]]} | ({"table_after": [[0, 0, 0], [0, 0, 1]]} if z == 2 else {})
    for name, frames in tables.items():
        up.register_buffer(f"derived_{name}", _bias_table(up, frames).to(up.conv.weight), persistent=False)


def _fold_shapes(up: Upsample) -> None:
    """The buffers of `fold_upsample` for weights on the meta device, which have shapes but no values."""
    z, channels, empty = up.time_factor, up.conv.out_channels, up.conv.weight.new_empty
    _store(up, "folded", empty(channels, channels, z + 2, 4, 4), torch.channels_last_3d)
    _store(up, "alone", empty(channels, channels, 4, 4), torch.channels_last)
    if z == 2:
        _store(up, "after", empty(channels, channels, z + 2, 4, 4), torch.channels_last_3d)
    tables = {"table": z, "table_alone": 1} | ({"table_after": 2} if z == 2 else {})
    for name, frames in tables.items():
        up.register_buffer(f"derived_{name}", empty(frames, 4, 4, channels), persistent=False)


def _store(up: Upsample, name: str, value: Tensor, layout: torch.memory_format) -> None:
    up.register_buffer(f"derived_{name}", value.to(up.conv.weight).contiguous(memory_format=layout), persistent=False)


def wide(x: Tensor) -> Tensor:
    """x in float64. It is moved to the host if it is on Apple's MPS device, which has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def _spatial_taps(taps: Tensor, subs: Tensor) -> list[list[Tensor]]:
    """The spatial part of the fold for each time tap and sub-frame: [time tap][sub-frame], each [C_in, C_out, 4, 4].

    Tap a multiplies the enlarged row 2i + s for the output row 2i + s - a + 1.
    """
    steps = []
    for a in range(3):
        of_tap = []
        for s in range(subs.shape[2]):
            step = taps.new_zeros(subs.shape[-1], taps.shape[0], 4, 4)
            for ah, aw, sh, sw in product(range(3), range(3), range(2), range(2)):
                step[:, :, sh - ah + 2, sw - aw + 2] += (taps[:, :, a, ah, aw] @ subs[sh, sw, s]).T
            of_tap.append(step)
        steps.append(of_tap)
    return steps


def _bias_table(up: Upsample, frames: list[list[int]]) -> Tensor:
    """The bias table [len(frames), 4, 4, C] in float64; frames[n][a] is the sub-frame that time tap a multiplies."""
    assert up.upscale_conv.bias is not None
    taps, bias = wide(up.conv.weight), wide(up.upscale_conv.bias).unflatten(0, (2, 2, up.time_factor, -1))
    added = torch.einsum("oiahw,xysi->ahwxyso", taps, bias)  # for each tap and the sub-position that it multiplies
    meets = torch.zeros(len(frames), 4, 4, *added.shape[:-1], dtype=torch.float64)
    for (z, met), (i, rows), (j, columns) in product(
        enumerate(frames), enumerate(_BORDER_TAPS), enumerate(_BORDER_TAPS)
    ):
        for (a, s), (ah, sh), (aw, sw) in product(enumerate(met), rows, columns):
            meets[z, i, j, a, ah, aw, sh, sw, s] += 1
    table = meets.flatten(3).to(taps.device) @ added.flatten(0, 5)
    return table + wide(up.conv.bias)
