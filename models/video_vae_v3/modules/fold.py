"""Weights derived once from loaded ones, so that inference does less work: exact algebra, rounded once.

Two identities (derivation in docs/performance.md):
- The first frame of a clip stands for its own past, so a causal convolution of it is a 2-D one with the weights summed
  over time.
- A 1x1x1 convolution to C * r channels, a pixel shuffle and a causal 3x3x3 convolution are one transposed convolution
  at low resolution, plus a bias that depends on the pixel's phase and on being at the border (the 3x3x3 pads with zeros
  after the 1x1x1 has added its bias).
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

# Taps of a kernel of three along height or width that lie inside the picture, and the sub-position (0 or 1) of the
# enlarged pixel each one meets, by the class of the output row: first, odd, even, last.
_BORDER_TAPS = (
    ((1, 0), (2, 1)),
    ((0, 0), (1, 1), (2, 0)),
    ((0, 1), (1, 0), (2, 1)),
    ((0, 0), (1, 1)),
)


class Autoencoder(Protocol):
    """What this module reads of a VAE."""

    encoder: Encoder3D
    decoder: Decoder3D

    def modules(self) -> Iterator[nn.Module]: ...


def prepare_inference(vae: Autoencoder, winograd: Iterable[int] = (F43,)) -> None:
    """Derive the weights of the inference path; call it on float32 weights, before the model is cast.

    The derived weights are non-persistent buffers beside the ones they come from: names and values of the state dict
    stay. They do not follow later changes of the weights: derive them again after training.

    On the meta device, where memory is planned, shapes alone are derived: arithmetic there loads torch's compiler, two
    seconds of a start.

    Args:
        winograd: the m of F(m, 3) that the schedules to come use.
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
    """Has `prepare_inference` derived the weights of the inference path?"""
    return "derived_first" in vae.decoder.conv_in._buffers


@torch.no_grad()
def prepare_conv(conv: CausalConv3d) -> None:
    """Give a convolution its weights for the clip's first frame, and its own in channels-last order."""
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last_3d)
    weight = conv.weight
    summed = (
        weight.new_empty(*weight.shape[:2], *weight.shape[3:]) if weight.is_meta else wide(weight).sum(2).to(weight)
    )
    first = summed.contiguous(memory_format=torch.channels_last)
    conv.register_buffer("derived_first", first, persistent=False)


def prepare_level(block: DownEncoderBlock3D | UpDecoderBlock3D, sizes: tuple[int, ...]) -> None:
    """Let groups of m frames go through a level by Winograd F(m, 3), for every m of `sizes`."""
    for resnet in block.resnets:
        prepare_winograd(resnet.conv1, sizes)
        prepare_winograd(resnet.conv2, sizes)
    for up in block.upsamplers if isinstance(block, UpDecoderBlock3D) else ():
        if up.time_factor == 1:
            prepare_winograd_upsample(up, sizes)


def fold_upsamplers(vae: Autoencoder) -> None:
    """Fold every `Upsample` below `vae`."""
    for module in vae.modules():
        if isinstance(module, Upsample):
            fold_upsample(module)


@torch.no_grad()
def fold_upsample(up: Upsample) -> None:
    """Derive the transposed convolution of one upsampler, in float64.

    Buffers: `derived_folded` [C, C, kt, 4, 4] with kt = 4 where time doubles, else 3; `derived_after` the same for the
    frame after the clip's first one (where time doubles); `derived_alone` [C, C, 4, 4] for the first frame; tables
    `derived_table`, `derived_table_after` [z, 4, 4, C] and `derived_table_alone` [1, 4, 4, C].
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
        after[:, :, 2] = steps[0][0] + steps[1][0]  # output frame 1 sees the only sub-frame twice
        after[:, :, 3] = steps[0][0]
        _store(up, "after", after, torch.channels_last_3d)
    rows = [[(frame + a) % z for a in range(3)] for frame in range(z)]
    tables = {"table": rows, "table_alone": [[0, 0, 0]]} | ({"table_after": [[0, 0, 0], [0, 0, 1]]} if z == 2 else {})
    for name, frames in tables.items():
        up.register_buffer(f"derived_{name}", _bias_table(up, frames).to(up.conv.weight), persistent=False)


def _fold_shapes(up: Upsample) -> None:
    """The buffers of `fold_upsample` without values."""
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
    """x in float64; on the host where its device has no float64, which is so on Apple's."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def _spatial_taps(taps: Tensor, subs: Tensor) -> list[list[Tensor]]:
    """The spatial part of the fold, by time tap and sub-frame: enlarged row 2i + s meets tap a at 2i + s - a + 1."""
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
    """[len(frames), 4, 4, C]: the constant part; `frames` names the sub-frame that each time tap meets."""
    assert up.upscale_conv.bias is not None
    taps, bias = wide(up.conv.weight), wide(up.upscale_conv.bias).unflatten(0, (2, 2, up.time_factor, -1))
    added = torch.einsum("oiahw,xysi->ahwxyso", taps, bias)  # by tap and by the sub-position that it meets
    meets = torch.zeros(len(frames), 4, 4, *added.shape[:-1], dtype=torch.float64)
    for (z, met), (i, rows), (j, columns) in product(
        enumerate(frames), enumerate(_BORDER_TAPS), enumerate(_BORDER_TAPS)
    ):
        for (a, s), (ah, sh), (aw, sw) in product(enumerate(met), rows, columns):
            meets[z, i, j, a, ah, aw, sh, sw, s] += 1
    table = meets.flatten(3).to(taps.device) @ added.flatten(0, 5)
    return table + wide(up.conv.bias)
