"""Each operator of the degradation keeps the promise of its formula."""

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from data.degradation import kernels
from data.degradation.blur import BlurDraw, apply_blur, draw_blur
from data.degradation.compression import CompressionDraw, apply_compression, draw_compression, encode
from data.degradation.config import BlurConfig, CompressionConfig, NoiseConfig, ResizeConfig, SharpenConfig, Walk
from data.degradation.jpeg import JpegDraw, apply_jpeg, encode_jpeg, unit_to_uint8
from data.degradation.noise import NoiseDraw, apply_noise, draw_noise
from data.degradation.random_walks import choose, walk, walk_with_half_below_one
from data.degradation.resize import MIN_SIDE, ResizeDraw, apply_resize, draw_resize
from data.degradation.sharpen import apply_sharpen

FRAMES = 3


def photo(side: int = 128) -> np.ndarray:
    return cv2.resize(skimage.data.astronaut(), (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def blur_config(**changes) -> BlurConfig:
    kinds = ["iso", "aniso", "generalised_iso", "generalised_aniso", "plateau_iso", "plateau_aniso", "sinc"]
    values = {
        "probability": 1.0,
        "sizes": (7, 9, 13, 21),
        "kinds": dict.fromkeys(kinds, 1.0),
        "sigma": Walk((0.2, 3.0), 0.5),
        "angle": Walk((-3.14, 3.14), 0.3),
        "beta_generalised": Walk((0.5, 4.0), 0.05),
        "beta_plateau": Walk((1.0, 2.0), 0.1),
        "cutoff_small": Walk((1.05, 3.14), 0.06),
        "cutoff_large": Walk((0.63, 3.14), 0.06),
    }
    return BlurConfig(**(values | changes))


def test_every_drawn_kernel_sums_to_one_and_has_the_promised_symmetry():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(80):
        draw = draw_blur(blur_config(), FRAMES, rng)
        seen.add(draw.kind)
        k = draw.kernels
        assert k.shape == (FRAMES, draw.size, draw.size) and k.dtype == np.float32
        np.testing.assert_allclose(k.sum(axis=(1, 2)), 1, atol=1e-5)
        np.testing.assert_allclose(k, k[:, ::-1, ::-1], atol=1e-6)  # every kernel looks the same turned by 180 degrees
        if "aniso" not in draw.kind:
            np.testing.assert_allclose(k, k[:, ::-1], atol=1e-6)
            np.testing.assert_allclose(k, k.transpose(0, 2, 1), atol=1e-6)
    assert seen == set(blur_config().kinds)


def test_kernels_follow_their_formulas():
    one = np.ones(1)
    q = kernels.squared_distance(9, 1.5 * one, 0.7 * one, 0.4 * one)
    rotation = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    inverse = np.linalg.inv(rotation @ np.diag([1.5**2, 0.7**2]) @ rotation.T)
    u = np.array([2.0, -3.0])  # x, y
    assert q[0, 4 - 3, 4 + 2] == pytest.approx(u @ inverse @ u)
    np.testing.assert_allclose(kernels.generalised(q, one), kernels.gaussian(q), atol=1e-7)
    ratio = kernels.plateau(q, 2 * one)[0]
    assert ratio[4, 4] / ratio[1, 6] == pytest.approx(1 + q[0, 1, 6] ** 2, rel=1e-5)


def test_gaussian_kernel_has_its_standard_deviation():
    one = np.ones(1)
    k = kernels.gaussian(kernels.squared_distance(21, 2 * one, 2 * one, 0 * one))[0]
    offset = np.arange(21) - 10
    assert np.sqrt((k.sum(axis=0) * offset**2).sum()) == pytest.approx(2, rel=1e-3)


def test_sinc_passes_below_its_cutoff_and_stops_above():
    k = kernels.sinc(41, np.array([np.pi / 2]))[0]
    response = np.abs(np.fft.fft2(k, (256, 256)))[0]
    frequency = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    assert response[frequency < np.pi * 0.4].min() > 0.85
    assert response[(frequency > np.pi * 0.6) & (frequency < np.pi)].max() < 0.15


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd"):
        kernels.sinc(8, np.ones(1))


@pytest.mark.parametrize("kind", ["iso", "aniso", "generalised_iso"])
def test_blur_keeps_a_constant_and_equals_a_direct_sum(kind):
    draw = draw_blur(blur_config(kinds={kind: 1}, sizes=(7,)), 1, np.random.default_rng(3))
    flat = np.full((32, 32, 3), 0.3, dtype=np.float32)
    np.testing.assert_allclose(apply_blur([flat], draw)[0], 0.3, atol=1e-5)
    image = photo(32)
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
    want = sum(draw.kernels[0, i, j] * padded[i : i + 32, j : j + 32] for i in range(7) for j in range(7))
    np.testing.assert_allclose(apply_blur([image], draw)[0], want, atol=1e-5)


def test_blur_probability():
    rng = np.random.default_rng(0)
    kinds = [draw_blur(blur_config(probability=0.25), 1, rng).kind for _ in range(400)]
    assert kinds.count("identity") / 400 == pytest.approx(0.75, abs=0.07)


def test_gaussian_noise_has_its_variance_in_every_frame():
    frames = [np.full((128, 128, 3), 0.5, dtype=np.float32)] * FRAMES
    levels = np.array([1.0, 10.0, 30.0])
    noisy = apply_noise(frames, NoiseDraw("gaussian", False, levels), np.random.default_rng(0))
    for frame, level in zip(noisy, levels, strict=True):
        assert (frame - 0.5).std() * 255 == pytest.approx(level, rel=0.02)
        channels = (frame - 0.5).reshape(-1, 3)
        assert abs(np.corrcoef(channels[:, 0], channels[:, 1])[0, 1]) < 0.05


@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_gray_noise_is_equal_over_channels(kind):
    frame = photo()
    noise = apply_noise([frame], NoiseDraw(kind, True, np.array([2.0])), np.random.default_rng(0))[0] - frame
    assert np.abs(noise - noise[..., :1]).max() < 1e-6 and noise.std() > 1e-3


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_poisson_noise_follows_its_variance_law(scale):
    columns = np.linspace(0, 1, 64).astype(np.float32)  # 64 distinct 8-bit values: V = 64
    frame = np.ascontiguousarray(np.broadcast_to(columns[None, :, None], (512, 64, 3)))
    noise = apply_noise([frame], NoiseDraw("poisson", False, np.array([scale])), np.random.default_rng(1))[0] - frame
    x = np.rint(columns * 255) / 255
    np.testing.assert_allclose(noise.var(axis=(0, 2)), scale**2 * x / 64, rtol=0.2, atol=1e-6)
    assert noise[:, 32].mean() == pytest.approx(0, abs=0.02 * scale)


def standard_table(quality: int) -> np.ndarray:
    """Luminance table of the JPEG standard, Annex K, scaled as libjpeg does."""
    first_row_and_column = np.array([16, 11, 10, 16, 24, 40, 51, 61])
    factor = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((first_row_and_column * factor + 50) // 100, 1, 255)


@pytest.mark.parametrize("quality", [30, 50, 77, 95])
def test_jpeg_has_the_quality_asked_for(quality, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(photo(64), quality).tobytes())
    with Image.open(tmp_path / "a.jpg") as picture:
        first_row = picture.quantization[0][:8]
    np.testing.assert_array_equal(first_row, standard_table(quality))


def test_jpeg_gets_worse_with_lower_quality_and_clips():
    frame = photo(64) * 2 - 0.5
    high, low = apply_jpeg([frame, frame], JpegDraw(np.array([95, 30])))
    clipped = np.clip(frame, 0, 1)
    assert np.abs(high - clipped).mean() < np.abs(low - clipped).mean() < 0.1


def test_8_bit_cast_does_not_wrap():
    np.testing.assert_array_equal(unit_to_uint8(np.array([-0.1, 0.0, 1.0, 1.2])), [0, 0, 255, 255])


def moving_clip(side: int, frames: int = 9) -> list[np.ndarray]:
    image = photo(side + 2 * frames)
    return [image[i : i + side, 2 * i : 2 * i + side] for i in range(frames)]


@pytest.mark.parametrize(("codec", "few", "many"), [("libx264", 15_000, 60_000), ("mpeg4", 1_000, 60_000)])
def test_compression_follows_its_bitrate_and_keeps_the_content(codec, few, many):
    clip = moving_clip(192)
    sizes, errors = [], []
    for bits in (few, many):
        draw = CompressionDraw(codec, bits, "medium")
        packets = encode([unit_to_uint8(f) for f in clip], draw)
        sizes.append(sum(p.size for p in packets) * 8 / len(clip))
        errors.append(np.abs(np.stack(apply_compression(clip, draw)) - np.stack(clip)).mean())
    assert sizes[0] < 0.8 * sizes[1] and sizes[1] < 1.2 * many
    assert errors[1] < errors[0] < 0.1


def test_libx264_meets_its_bitrate():
    bits = 10_000
    packets = encode([unit_to_uint8(f) for f in moving_clip(256, 17)], CompressionDraw("libx264", bits, "medium"))
    assert sum(p.size for p in packets) * 8 / 17 == pytest.approx(bits, rel=0.25)


def test_compression_bits_scale_with_area():
    config = CompressionConfig({"libx264": 1.0}, (10_000, 100_000))
    small, large = (draw_compression(config, side**2, np.random.default_rng(5)).bits_per_frame for side in (256, 512))
    assert large == pytest.approx(4 * small, rel=1e-4)
    assert 10_000 <= small <= 100_000


def test_compression_shifts_no_colour():
    """Conversions to YUV and back with swscale's defaults darken by more than one level of 255, twice a clip."""
    clip = moving_clip(192)
    damage = np.stack(apply_compression(clip, CompressionDraw("libx264", 200_000, "medium"))) - np.stack(clip)
    assert np.abs(damage.mean((0, 1, 2))).max() * 255 < 0.3


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("size", [(16, 16), (45, 81)])
def test_compression_takes_small_and_odd_sizes(codec, size):
    frames = [np.full((*size, 3), 0.5, dtype=np.float32), np.full((size[0] + 4, size[1] - 2, 3), 0.5, dtype=np.float32)]
    out = apply_compression(frames, CompressionDraw(codec, 20_000, "medium"))
    assert [f.shape for f in out] == [(*size, 3)] * 2
    np.testing.assert_allclose(np.stack(out), 0.5, atol=0.03)


def test_resize_sizes_are_even_and_follow_the_scale():
    frames = [photo(100)] * 2
    out = apply_resize(frames, ResizeDraw("down", "bicubic", np.array([0.5, 0.31])))
    assert [f.shape[:2] for f in out] == [(50, 50), (32, 32)]
    relative = apply_resize(frames, ResizeDraw("up", "area", np.array([1.2, 1.2])), relative_to=(25, 30))
    assert relative[0].shape[:2] == (30, 36)
    assert apply_resize(frames, ResizeDraw("down", "area", np.array([0.01, 1])))[0].shape[:2] == (MIN_SIDE, MIN_SIDE)


def test_resize_modes_keep_to_their_side_of_one():
    config = ResizeConfig({"up": 1, "down": 1, "keep": 1}, Walk((0.3, 1.2), 0.3), "current", {"area": 1.0})
    rng = np.random.default_rng(0)
    for _ in range(60):
        draw = draw_resize(config, 5, rng)
        low, high = {"up": (1, 1.2), "down": (0.3, 1), "keep": (1, 1)}[draw.mode]
        assert low <= draw.scales.min() and draw.scales.max() <= high


def test_sharpening_leaves_flat_regions_and_steepens_edges():
    edge = np.full((96, 96, 3), 0.3, dtype=np.float32)
    edge[:, 48:] = 0.6
    edge = apply_blur([edge], BlurDraw("iso", 3, np.full((1, 3, 3), 1 / 9, np.float32), {}))[0]
    sharp = apply_sharpen([edge], SharpenConfig(51, 0.5, 10))[0]
    assert (sharp[:, 47:50].max() - sharp[:, 46:49].min()) > (edge[:, 47:50].max() - edge[:, 46:49].min())
    faint = np.full((96, 96, 3), 0.5, dtype=np.float32)
    faint[:, 48:] += 8 / 255
    np.testing.assert_allclose(apply_sharpen([faint], SharpenConfig(51, 0.5, 10))[0], faint, atol=1e-6)


def test_walk_stays_in_its_range_and_takes_bounded_steps():
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = walk(rng, Walk((0.2, 0.5), 0.1), 40)
        assert values.min() >= 0.2 and values.max() <= 0.5
        assert np.abs(np.diff(values)).max() <= 0.1 + 1e-12 and np.abs(np.diff(values)).max() > 0


def test_half_of_the_shape_exponents_lie_below_one():
    rng = np.random.default_rng(0)
    starts = np.array([walk_with_half_below_one(rng, Walk((0.5, 4.0), 0), 1)[0] for _ in range(1000)])
    assert (starts < 1).mean() == pytest.approx(0.5, abs=0.05) and starts.min() >= 0.5 and starts.max() <= 4
    plateau = np.array([walk_with_half_below_one(rng, Walk((1.0, 2.0), 0), 1)[0] for _ in range(1000)])
    assert (plateau == 1).mean() == pytest.approx(0.5, abs=0.05)


def test_choices_have_their_probabilities():
    rng = np.random.default_rng(0)
    drawn = [choose(rng, {"a": 1, "b": 3, "never": 0}) for _ in range(2000)]
    assert drawn.count("b") / 2000 == pytest.approx(0.75, abs=0.04) and "never" not in drawn


def test_noise_draw_probabilities():
    config = NoiseConfig({"gaussian": 0.5, "poisson": 0.5}, 0.4, Walk((1, 30), 0.1), Walk((0.05, 3), 0.005))
    rng = np.random.default_rng(0)
    draws = [draw_noise(config, 2, rng) for _ in range(1000)]
    assert np.mean([d.gray for d in draws]) == pytest.approx(0.4, abs=0.06)
    assert np.mean([d.kind == "gaussian" for d in draws]) == pytest.approx(0.5, abs=0.06)
    assert all(d.levels.max() <= (30 if d.kind == "gaussian" else 3) for d in draws)
