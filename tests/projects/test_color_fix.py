"""The colour fix against recorded numbers, a slow direct form, and its laws."""

import pytest
import skimage.color
import skimage.data
import torch
import torch.nn.functional as F

from projects.video_diffusion_sr.color_fix import KINDS, adain, fix_colour, low_frequencies, wavelet_reconstruction
from projects.video_diffusion_sr.lab_color import curve, lab_to_rgb, match_distribution, rgb_to_lab
from tests.conftest import load_golden, seeded

CONTENT = (seeded("open/colour/content", (2, 3, 80, 96)) * 0.3).clamp(-1, 1)
STYLE = (seeded("open/colour/style", (2, 3, 80, 96)) * 0.2 + 0.2).clamp(-1, 1)


def direct_wavelet(content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """The definition word for word: five 3x3 dilated convolutions of each picture, the bands kept apart and summed."""

    def split(x):
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).expand(3, 1, 3, 3) / 16
        high = torch.zeros_like(x)
        for i in range(5):
            padded = F.pad(x, (2**i,) * 4, mode="replicate")
            low = F.conv2d(padded, kernel, groups=3, dilation=2**i)
            high, x = high + (x - low), low
        return high, x

    return split(content)[0] + split(style)[1]


@pytest.mark.parametrize("kind", ["wavelet", "adain"])
def test_meets_the_recorded_numbers(kind):
    golden = load_golden("colour_resize.safetensors")[kind]
    assert (fix_colour(kind, CONTENT, STYLE) - golden).abs().max() <= 1e-6


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (17, 40), (33, 31)])
def test_wavelet_equals_the_definition_also_below_the_reach_of_the_blur(size):
    content, style = seeded("law/content", (3, 3, *size)), seeded("law/style", (3, 3, *size))
    assert torch.allclose(wavelet_reconstruction(content, style), direct_wavelet(content, style), atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_does_not_see_the_others_and_arguments_stay_as_they_are(kind):
    content, style = CONTENT.clone(), STYLE.clone()
    together = fix_colour(kind, content, style)
    for i in range(2):
        assert torch.allclose(together[i : i + 1], fix_colour(kind, content[i : i + 1], style[i : i + 1]), atol=1e-6)
    assert torch.equal(content, CONTENT) and torch.equal(style, STYLE)


@pytest.mark.parametrize("kind", ["wavelet", "adain"])
def test_a_colour_cast_is_removed_and_the_right_colour_is_left_alone(kind):
    cast = torch.tensor([0.1, -0.2, 0.05]).view(1, 3, 1, 1)
    assert torch.allclose(fix_colour(kind, STYLE + cast, STYLE), STYLE, atol=2e-6)


def test_adain_matches_mean_and_spread():
    out = adain(CONTENT, STYLE)
    assert torch.allclose(out.mean((2, 3)), STYLE.mean((2, 3)), atol=1e-5)
    assert torch.allclose(out.std((2, 3)), STYLE.std((2, 3)), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["wavelet", "lab", "adain"])
def test_any_float_dtype_is_computed_in_float32(kind, dtype):
    content, style = CONTENT.to(dtype), STYLE.to(dtype)
    out = fix_colour(kind, content, style)
    assert out.dtype == torch.float32
    assert torch.equal(out, fix_colour(kind, content.float(), style.float()))


def test_unknown_kinds_and_unequal_sizes_are_refused():
    with pytest.raises(ValueError, match="wavelet, lab, adain, none"):
        fix_colour("purple", CONTENT, STYLE)
    with pytest.raises(ValueError, match="of one size"):
        wavelet_reconstruction(CONTENT, STYLE[:, :, :-1])
    with pytest.raises(ValueError, match="of one size"):
        adain(CONTENT[0], STYLE[0])


def photograph() -> torch.Tensor:
    """[1, 3, 128, 160] in [-1, 1]."""
    pixels = torch.from_numpy(skimage.data.astronaut()[:256:2, 100:420:2].copy())
    return (pixels.permute(2, 0, 1)[None].float() / 255) * 2 - 1


def test_cielab_is_that_of_the_standard_and_there_is_a_way_back():
    picture = photograph()
    theirs = torch.from_numpy(skimage.color.rgb2lab((picture[0].permute(1, 2, 0).numpy() + 1) / 2))
    assert (rgb_to_lab(picture)[0].permute(1, 2, 0) - theirs).abs().max() < 0.05  # whites differ in the fifth digit
    red = rgb_to_lab(torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)).flatten()
    assert torch.allclose(red, torch.tensor([53.24, 80.09, 67.20]), atol=0.05)
    beyond = seeded("law/gamut", (1, 3, 40, 50)) * 0.8  # also values that no screen shows
    assert beyond.abs().max() > 1.5
    assert torch.allclose(lab_to_rgb(rgb_to_lab(beyond)), beyond, atol=2e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 40)])
def test_lab_leaves_right_colours_alone_at_any_size(size):
    picture = (seeded("law/lab", (2, 3, *size)) * 0.4).clamp(-1, 1)
    assert torch.allclose(fix_colour("lab", picture, picture), picture, atol=2e-4)


def test_lab_removes_a_cast_in_lightness_and_chroma():
    picture = photograph()
    shift = torch.tensor([4.0, -9.0, 12.0]).view(1, 3, 1, 1)
    cast = lab_to_rgb(rgb_to_lab(picture) + shift)
    assert (cast - picture).abs().mean() > 0.05
    assert (fix_colour("lab", cast, picture) - picture).abs().max() < 2e-3


def test_lab_does_not_take_over_local_chroma_of_the_input():
    """A stain in the input's colour, which lightness does not show: wavelet copies it, lab does not."""
    clean = photograph()
    lab = rgb_to_lab(clean)
    lab[:, 1, 48:80, 64:96] += 25
    stained = lab_to_rgb(lab)
    error = {kind: (rgb_to_lab(fix_colour(kind, clean, stained)) - rgb_to_lab(clean))[:, 1, 48:80, 64:96].abs().mean()
             for kind in ("wavelet", "lab")}  # fmt: skip
    assert error["wavelet"] > 10 and error["lab"] < error["wavelet"] / 2


def test_lab_gives_chroma_the_distribution_of_the_input_and_keeps_detail():
    content, style = photograph(), (photograph().flip(-1) * 0.7 + 0.1).roll(1, dims=1)
    fixed = rgb_to_lab(fix_colour("lab", content, style))
    low, wanted = (low_frequencies(rgb_to_lab(x))[:, 1:] for x in (content, style))
    matched = match_distribution(low, wanted)
    for channel in range(2):
        ours, theirs, was = (x[0, channel].flatten().sort().values for x in (matched, wanted, low))
        assert (was - theirs).abs().mean() > theirs.std() and (ours - theirs).abs().mean() < 0.01 * theirs.std()
    before = rgb_to_lab(content)
    change = low_frequencies(rgb_to_lab(style)) - low_frequencies(before)
    assert torch.allclose(fixed[:, :1], (before + change)[:, :1], atol=2e-2)  # L*: all that is finer is the content's


def test_the_curve_rises_keeps_equal_values_equal_and_takes_flat_pictures():
    x = torch.tensor([[0.0, 0.0, 1.0, 2.0]])
    y = curve(x, torch.tensor([0.0, 0.0, 1.0, 2.0]), torch.tensor([5.0, 7.0, 8.0, 9.0]))
    assert torch.equal(y, torch.tensor([[6.0, 6.0, 8.0, 9.0]]))
    flat = torch.full((1, 1, 4, 4), 3.0)
    wide = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.allclose(match_distribution(flat, wide), wide.mean() * torch.ones_like(flat), atol=0.1)
    assert torch.allclose(match_distribution(wide, flat), flat)
    assert torch.allclose(match_distribution(wide, wide), wide, atol=1e-5)
