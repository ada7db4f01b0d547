"""The VAE's inference path and its folded weights against the plain path: the same numbers, whatever the cut."""

import math
import weakref

import pytest
import torch
from torch.nn import functional as F

from common.kernels.winograd_matrices import INPUT_SCALE
from models.video_vae_v3.modules import inference_layers, upsampling, winograd
from models.video_vae_v3.modules.activation import Activation
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKLWrapper, split_after_first
from models.video_vae_v3.modules.blocks import Upsample
from models.video_vae_v3.modules.fold import fold_upsample, prepare_inference
from models.video_vae_v3.modules.row_blocks import in_row_blocks
from models.video_vae_v3.modules.schedule import DIRECT, F23, F43, LevelSchedule, Schedule, direct_schedule
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from models.video_vae_v3.modules.upsampling import upsample, upsampler_input
from models.video_vae_v3.modules.winograd import Addends, InputNorm, WinogradWeights, winograd_conv
from tests.conftest import seed_weights
from tests.models.shared_rows import in_blocks
from tests.plain_vae import release_inference

SMALL = {"block_out_channels": (16, 24, 32), "layers_per_block": 1, "norm_num_groups": 8, "latent_channels": 4}
WHOLE, ONE, TWO = LevelSchedule(), LevelSchedule(1), LevelSchedule(2)
BY_4, BY_2 = LevelSchedule(4, F43), LevelSchedule(2, F23)
LEVELS = [
    (WHOLE, WHOLE, WHOLE), (TWO, TWO, ONE), (BY_4, BY_4, WHOLE), (BY_4, WHOLE, WHOLE), (BY_2, BY_2, WHOLE),
    (BY_4, BY_2, ONE), (BY_2, BY_4, WHOLE), (LevelSchedule(3), BY_4, ONE),
]  # fmt: skip


def small_vae(temporal_scale_num: int, **changes) -> VideoAutoencoderKLWrapper:
    vae = VideoAutoencoderKLWrapper(**(SMALL | {"temporal_scale_num": temporal_scale_num} | changes))
    return seed_weights(vae).double().eval()


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["space", "time-once", "time-twice"])
def vae(request) -> VideoAutoencoderKLWrapper:
    return small_vae(request.param)


def fits(vae, levels) -> bool:
    """Levels that halve time take frames in pairs."""
    halves = {0: (), 1: (1,), 2: (0, 1)}[{1: 0, 2: 1, 4: 2}[vae.temporal_factor]]
    return all(levels[level].group is None or levels[level].group % 2 == 0 for level in halves)


def in_slices(vae, x, schedule, run, rows=None):
    """A clip slice by slice through `vae.encode_slice` or `vae.decode_slice`."""
    size = schedule.slice_frames
    if size is not None and run == "decode_slice":
        size //= vae.temporal_factor
    memory = vae.new_memory(schedule, rows)
    return torch.cat([getattr(vae, run)(part, memory) for part in split_after_first(x, size)], 2)


def pixels_and_latents(vae, frames, height, width, batch=1):
    factor = vae.temporal_factor
    latent = 1 + (frames - 1) // factor, height // vae.spatial_factor, width // vae.spatial_factor
    return torch.randn(batch, 3, frames, height, width).double(), torch.randn(batch, 4, *latent).double()


@pytest.mark.parametrize(("batch", "every"), [(1, 1), (2, 3)])
@torch.no_grad()
def test_every_schedule_equals_the_plain_network(vae, batch, every):
    """Of two clips at once every third schedule."""
    clip, latents = pixels_and_latents(vae, 13, 8, 12, batch)
    release_inference(vae)
    vae.set_causal_slicing(None)
    moments, frames = vae.encode_parameters(clip), vae.decode_latents(latents)
    prepare_inference(vae, (F23, F43))
    for levels in filter(lambda levels: fits(vae, levels), LEVELS[::every]):
        for size in (None, 4, 8):
            schedule = Schedule(size, levels)
            assert (in_slices(vae, clip, schedule, "encode_slice") - moments).abs().max() < 1e-12
            assert (in_slices(vae, latents, schedule, "decode_slice") - frames).abs().max() < 1e-12


@torch.no_grad()
def test_a_memory_limit_makes_groups_smaller_and_changes_nothing(vae):
    clip, latents = pixels_and_latents(vae, 9, 8, 12)
    prepare_inference(vae)
    vae.set_causal_slicing(8)
    expected = vae.encode_parameters(clip), vae.decode_latents(latents)
    vae.set_memory_limit(1e-9)  # GiB
    assert vae._schedule(clip).levels[0].group in (1, 2)
    results = vae.encode_parameters(clip), vae.decode_latents(latents)
    vae.set_memory_limit(None)
    assert vae._schedule(clip).levels[0] == LevelSchedule()
    for result, whole in zip(results, expected, strict=True):
        assert (result - whole).abs().max() < 1e-12


SHARES = ((2, 3), (1, 1, 3), (1, 1, 1, 1), (5, 1, 2))  # latent rows of each rank
OF_ROWS = (0, 2, 4, 5)  # of `LEVELS`


@pytest.mark.parametrize(
    ("levels", "heights"),
    [  # every level and every share once, the other pairs by `make test-all`
        pytest.param(LEVELS[n], heights, marks=() if at == place else pytest.mark.slow)
        for at, n in enumerate(OF_ROWS)
        for place, heights in enumerate(SHARES)
    ],
)
@torch.no_grad()
def test_blocks_of_rows_equal_the_whole_picture(levels, heights, monkeypatch):
    latent_rows = sum(heights)
    vae = small_vae(1)
    prepare_inference(vae, (F23, F43))
    monkeypatch.setattr(winograd, "BLOCK_BYTES", 20_000)  # several blocks of rows a share
    clip, latents = pixels_and_latents(vae, 13, 4 * latent_rows, 12)
    for size in (4, 8):
        schedule = Schedule(size, levels)
        moments, frames = (
            in_slices(vae, clip, schedule, "encode_slice"), in_slices(vae, latents, schedule, "decode_slice"),
        )  # fmt: skip

        def encode(rows, block, schedule=schedule):
            own = clip[:, :, :, 4 * block.start : 4 * block.stop]
            return in_slices(vae, own, schedule, "encode_slice", rows)

        def decode(rows, block, schedule=schedule):
            return in_slices(vae, latents[:, :, :, block], schedule, "decode_slice", rows)

        assert (torch.cat(in_blocks(encode, heights), 3) - moments).abs().max() < 1e-11
        assert (torch.cat(in_blocks(decode, heights), 3) - frames).abs().max() < 1e-11


@torch.no_grad()
def test_blocks_of_rows_of_an_image():
    vae = small_vae(2)
    prepare_inference(vae)
    image, latent = pixels_and_latents(vae, 1, 20, 12)
    schedule = Schedule(4, (WHOLE,) * 3, single_frame=True)
    moments, frames = vae.encode_parameters(image), vae.decode_latents(latent)
    encoded = in_blocks(
        lambda rows, block: vae.encode_slice(
            image[:, :, :, 4 * block.start : 4 * block.stop], vae.new_memory(schedule, rows)
        ),
        (2, 1, 2),
    )
    decoded = in_blocks(
        lambda rows, block: vae.decode_slice(latent[:, :, :, block], vae.new_memory(schedule, rows)), (2, 1, 2)
    )
    assert (torch.cat(encoded, 3) - moments).abs().max() < 1e-11
    assert (torch.cat(decoded, 3) - frames).abs().max() < 1e-11


@pytest.mark.parametrize("size", [2, 4, 6, 10])
@torch.no_grad()
def test_winograd_in_blocks_of_rows_and_with_frames_left_over(size, monkeypatch):
    """Slices whose frames are not a group's: those go by direct convolutions."""
    vae = small_vae(1)
    clip, latents = pixels_and_latents(vae, 21, 20, 12)
    vae.set_causal_slicing(size)
    expected = vae.encode_parameters(clip), vae.decode_latents(latents)
    prepare_inference(vae)
    taken = []

    def counted(memory, layer, x, norm, out, *rest):
        taken.append((x.shape[1], out.shape[3] // x.shape[3]))
        return winograd_conv(memory, layer, x, norm, out, *rest)

    monkeypatch.setattr(inference_layers, "winograd_conv", counted)
    monkeypatch.setattr(upsampling, "winograd_conv", counted)
    schedule = Schedule(size, LEVELS[2])
    for block_bytes in (1, 100_000):
        monkeypatch.setattr(winograd, "BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(inference_layers, "LINEAR_BYTES", block_bytes)
        results = in_slices(vae, clip, schedule, "encode_slice"), in_slices(vae, latents, schedule, "decode_slice")
        for result, plain in zip(results, expected, strict=True):
            assert (result - plain).abs().max() < 1e-12
    assert set(taken) == (set() if size == 2 else {(4, 1), (4, 2)})


@pytest.mark.parametrize("m", [F23, F43])
@torch.no_grad()
def test_winograd_weights_stay_in_float16_where_the_network_becomes_bfloat16(m):
    vae = small_vae(1).float()
    prepare_inference(vae, (m,))
    conv = vae.decoder.up_blocks[-1].resnets[0].conv2

    def weights():
        return getattr(conv, f"derived_winograd{m}").products

    exact = weights().clone()
    vae.bfloat16()
    assert conv.weight.dtype == torch.bfloat16 and weights().dtype == torch.float16
    assert (weights().float() - exact).norm() < 5e-4 * exact.norm()
    vae.bfloat16()
    assert weights().dtype == torch.float16
    assert not [name for name in vae.state_dict() if "derived" in name]


@pytest.mark.parametrize("levels", [LEVELS[0], LEVELS[2]])
@torch.no_grad()
def test_two_clips_in_flight_and_carried_frames_that_wait_on_the_host(levels):
    """Carried frames belong to the clip: slices of two clips in turns give what each gives alone."""
    vae = small_vae(1)
    prepare_inference(vae)
    schedule = Schedule(4, levels)
    clips = torch.randn(2, 1, 3, 13, 8, 12).double()
    expected = [in_slices(vae, clip, schedule, "encode_slice") for clip in clips]
    memories, parts = [vae.new_memory(schedule) for _ in clips], [[], []]
    for start, stop in ((0, 1), (1, 5), (5, 9), (9, 13)):
        for clip, memory, part in zip(clips, memories, parts, strict=True):
            part.append(vae.encode_slice(clip[:, :, start:stop], memory))
            memory.offload()
    for part, whole in zip(parts, expected, strict=True):
        assert torch.equal(torch.cat(part, 2), whole)


def test_an_activation_is_free_once_its_consumer_is_done():
    """Whoever still names it, a suspended generator too, holds nothing."""
    group = Activation(torch.zeros(1, 4, 2, 2, 3))
    head = group.split_off(1)
    assert (head.frames, group.frames) == (1, 3)
    group.take(), head.take()
    with pytest.raises(AssertionError, match="consumed once"):
        group.take()


@torch.no_grad()
def test_images_and_single_frames(vae):
    image, latent = torch.randn(1, 3, 1, 20, 12).double(), torch.randn(1, 4, 1, 5, 3).double()
    release_inference(vae)
    expected = vae.encode_parameters(image), vae.decode_latents(latent)
    prepare_inference(vae)
    assert (vae.encode_parameters(image) - expected[0]).abs().max() < 1e-12
    assert (vae.decode_latents(latent) - expected[1]).abs().max() < 1e-12


def test_preparing_leaves_names_and_values_and_training_alone():
    vae = small_vae(1)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    prepare_inference(vae)
    after = vae.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    reconstruction, _ = vae(torch.randn(1, 3, 3, 8, 8).double())
    reconstruction.sum().backward()
    assert vae.decoder.up_blocks[0].upsamplers[0].upscale_conv.weight.grad.abs().sum() > 0
    release_inference(vae)
    assert not [name for name, _ in vae.named_buffers() if "derived" in name]


@pytest.mark.parametrize("frames_out", [None, 1, 2, 4])
@pytest.mark.parametrize("temporal", [True, False])
@pytest.mark.parametrize("cuts", [[1], [1, 1], [1, 2, 1], [3], [1, 3]])
@torch.no_grad()
def test_folded_upsampler(temporal, cuts, frames_out):
    up = seed_weights(Upsample(6, temporal)).double()
    up.upscale_conv.bias.mul_(10)  # large: an error of the table at the border must show
    fold_upsample(up)
    x = torch.randn(1, 6, sum(cuts), 3, 5).double()
    schedule = direct_schedule(None, 3)
    expected = up(x, ClipMemory(schedule, keep=False))
    memory, parts = ClipMemory(schedule), []
    for part in x.split([1, *cuts][1:] if cuts[0] == 1 else [1, cuts[0] - 1], dim=2):
        frames = part.permute(0, 2, 3, 4, 1)
        given = upsampler_input(memory, up, frames.shape)
        given.new.copy_(frames)
        parts += [piece.take() for piece in upsample(memory, up, given, frames_out, DIRECT)]
        memory.advance()
    assert (torch.cat(parts, 1).permute(0, 4, 1, 2, 3) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("halo", [False, True])
@pytest.mark.parametrize("rows", [7, 8, 13])
@pytest.mark.parametrize("most", [10**9, 700, 300, 1])
def test_blocks_of_rows_of_one_convolution_are_exact(rows, most, halo):
    """`halo`: the first and the last row are those of the neighbours, and nothing is padded."""
    x = torch.randn(1, 3, rows + 2 * halo, 5, 4)
    weight, pad = torch.randn(6, 4, 3, 3, 3), int(not halo)
    ends = (1, 1) if halo else (0, 0)

    def same(part):
        return F.conv3d(part.movedim(-1, 1), weight, padding=(0, pad, 1)).movedim(1, -1)

    out = in_row_blocks(same, x, (1, 1, rows, 5, 6), halo=ends, most=most)
    assert (out - same(x)).abs().max() < 1e-4

    def halved(part):
        return F.conv3d(part.movedim(-1, 1), weight, stride=(1, 2, 2)).movedim(1, -1)

    odd = x[:, :, : rows // 2 * 2 - 1]
    out = in_row_blocks(halved, odd, (1, 1, rows // 2 - 1, 2, 6), down=2, halo=(0, 1), most=most)
    assert (out - halved(odd)).abs().max() < 1e-4
    doubling = torch.randn(4, 6, 3, 4, 4)

    def doubled(part):
        pad = (2, 3 if halo else 1, 1)
        return F.conv_transpose3d(part.movedim(-1, 1), doubling, stride=(1, 2, 2), padding=pad).movedim(1, -1)

    out = in_row_blocks(doubled, x, (1, 1, 2 * rows, 10, 6), up=2, halo=ends, most=most)
    assert (out - doubled(x)).abs().max() < 1e-4


@pytest.mark.parametrize("m", [F23, F43])
@torch.no_grad()
def test_activations_as_large_as_the_release_has_pass_through_float16(m):
    """An upsampler reads what no norm has bounded: 19,088 was seen in the released VAE, float16 ends at 65,504."""
    taps, layer = torch.randn(3, 12, 16, 3, 3) / 432**0.5, torch.nn.Module()
    setattr(layer, f"derived_winograd{m}", WinogradWeights(taps, m).bfloat16())
    x = torch.randn(1, 2 + m, 6, 8, 16).mul(6000).clamp(-60000, 60000).bfloat16()
    memory = ClipMemory(direct_schedule(None, 3))
    memory.put(layer, x[:, :2].mul(INPUT_SCALE).half())
    norm = InputNorm(torch.ones(m, 16), torch.zeros(m, 16), False, None, None)
    out = torch.empty(1, m, 6, 8, 12).bfloat16()
    winograd_conv(memory, layer, x[:, 2:], norm, out, Addends(torch.zeros(12).bfloat16()))
    expected = F.conv3d(x.double().movedim(-1, 1), taps.double().movedim(0, 2), padding=(0, 1, 1)).movedim(1, -1)
    assert out.isfinite().all() and (out.double() - expected).norm() < 5e-3 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_the_meta_device_derived_weights_have_the_shapes_and_layouts_of_real_ones(dtype):
    """Memory is planned by them; arithmetic on the meta device would load torch's compiler at every start."""
    real = VideoAutoencoderKLWrapper(**SMALL, temporal_scale_num=2)
    with torch.device("meta"):
        planned = VideoAutoencoderKLWrapper(**SMALL, temporal_scale_num=2)
    facts = []
    for vae in (real, planned):
        prepare_inference(vae, (F23, F43))
        vae.to(dtype)
        facts.append({name: (x.shape, x.dtype, x.stride()) for name, x in vae.named_buffers() if "derived" in name})
    assert facts[0] == facts[1] and len(facts[0]) > 20


@pytest.mark.parametrize("align", [1, 3])
@pytest.mark.parametrize("height", [1, 5, 90, 361, 720])
def test_blocks_of_winograd_are_few_and_alike(height, align, monkeypatch):
    """As few as the bound allows, and none much shorter than another: a short one leaves a device idle."""
    channels = 24
    for most in (1, 2, 7, 100, 1000):
        monkeypatch.setattr(winograd, "BLOCK_BYTES", most * 10 * winograd.working_channels(4, channels, channels))
        rows = winograd.block_rows(4, channels, channels, 10, height, align)
        blocks = [min(rows, height - start) for start in range(0, height, rows)]
        assert rows % align == 0 and rows <= max(most // align, 1) * align
        fewest = math.ceil(height / (max(most // align, 1) * align))
        assert len(blocks) <= fewest
        assert rows * fewest < height + fewest * align


@torch.no_grad()
def test_a_transformed_frame_is_freed_behind_its_product(monkeypatch):
    """What the memory plan counts, see `working_channels`: while the first of six is made, five frames wait."""
    vae, made, waiting = small_vae(1), [], []
    prepare_inference(vae, (F43,))
    transform, product = winograd.transform_input, winograd._product

    def watched_transform(frames, *rest):
        made[:] = [weakref.ref(frame) for frame in frames]
        transform(frames, *rest)

    def watched_product(x, weight, up):
        waiting.append(sum(frame() is not None for frame in made) - 1)
        return product(x, weight, up)

    monkeypatch.setattr(winograd, "transform_input", watched_transform)
    monkeypatch.setattr(winograd, "_product", watched_product)
    clip, _ = pixels_and_latents(vae, 13, 20, 12)
    in_slices(vae, clip, Schedule(4, LEVELS[2]), "encode_slice")
    assert waiting and waiting == [5, 4, 3, 2, 1, 0] * (len(waiting) // 6)
