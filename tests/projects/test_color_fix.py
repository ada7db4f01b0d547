"""The colour fix against recorded numbers, a slow direct form, and its laws."""

import pytest
import torch
import torch.nn.functional as F

from projects.video_diffusion_sr.color_fix import adain, fix_colour, wavelet_reconstruction
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


@pytest.mark.parametrize("kind", ["wavelet", "adain", "none"])
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
@pytest.mark.parametrize("kind", ["wavelet", "adain"])
def test_any_float_dtype_is_computed_in_float32(kind, dtype):
    content, style = CONTENT.to(dtype), STYLE.to(dtype)
    out = fix_colour(kind, content, style)
    assert out.dtype == torch.float32
    assert torch.equal(out, fix_colour(kind, content.float(), style.float()))


def test_unknown_kinds_and_unequal_sizes_are_refused():
    with pytest.raises(ValueError, match="wavelet, adain, none"):
        fix_colour("lab", CONTENT, STYLE)
    with pytest.raises(ValueError, match="of one size"):
        wavelet_reconstruction(CONTENT, STYLE[:, :, :-1])
    with pytest.raises(ValueError, match="of one size"):
        adain(CONTENT[0], STYLE[0])
