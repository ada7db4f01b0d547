"""Laws of the picture transforms: the recorded resize, the crop, the pattern."""

import pytest
import torch

from data.image.transforms.divisible_crop import DivisibleCrop
from data.image.transforms.na_resize import NaResize
from data.video.transforms.rearrange import Rearrange
from tests.conftest import load_golden, seeded


@pytest.mark.parametrize("size", [(20, 30), (72, 96)])
def test_area_resize_gives_the_recorded_numbers(size):
    x = (seeded("open/resize/x", (2, 3, 37, 53)) * 0.25 + 0.5).clamp(0, 1)
    recorded = load_golden("colour_resize.safetensors")[f"area_resize/{size[0]}x{size[1]}"]
    result = NaResize(resolution=(size[0] * size[1]) ** 0.5, mode="area")(x)
    assert result.shape == recorded.shape
    assert (result - recorded).abs().max() <= 1e-6


def test_resize_treats_frames_alone_and_keeps_leading_axes():
    clip = torch.rand(2, 4, 3, 20, 31)
    resize = NaResize(resolution=24, mode="side")
    whole = resize(clip)
    assert whole.shape == (2, 4, 3, 24, 37) and resize.output_size(20, 31) == (24, 37)
    torch.testing.assert_close(whole[1, 2], resize(clip[1, 2]), rtol=0, atol=0)


@pytest.mark.parametrize("height,width", [(1080, 1920), (720, 1280), (1920, 1080), (241, 427), (97, 1013)])
def test_a_picture_of_the_wanted_area_keeps_its_size(height, width):
    assert NaResize((height * width) ** 0.5, "area").output_size(height, width) == (height, width)


def test_downsample_only_never_enlarges():
    small, large = torch.rand(3, 10, 12), torch.rand(3, 100, 120)
    resize = NaResize(50, "area", downsample_only=True)
    assert torch.equal(resize(small), small)
    assert resize(large).shape == (3, *NaResize(50, "area").output_size(100, 120))


def test_resize_refuses_what_it_cannot_mean():
    with pytest.raises(ValueError, match="'area' and 'side'"):
        NaResize(100, "long")
    with pytest.raises(ValueError, match="divide 8-bit pixels by 255"):
        NaResize(100, "area")(torch.zeros(3, 8, 8, dtype=torch.uint8))


def test_crop_takes_the_centre():
    frames = torch.arange(2 * 21 * 38).reshape(2, 21, 38)
    cropped = DivisibleCrop((4, 16))(frames)
    assert torch.equal(cropped, frames[:, 0:20, 3:35])  # margins 1 and 6; half of 1 rounds to 0
    assert DivisibleCrop(16)(torch.zeros(1080, 1920)).shape == (1072, 1920)
    with pytest.raises(ValueError, match="cannot be cropped"):
        DivisibleCrop(16)(torch.zeros(3, 12, 64))


def test_rearrange_undoes_itself():
    clip = torch.rand(6, 3, 4, 5)
    split = Rearrange("(t k) c h w -> c t k h w", k=2)(clip)
    assert split.shape == (3, 3, 2, 4, 5)
    assert torch.equal(Rearrange("c t k h w -> (t k) c h w")(split), clip)
