"""Laws of framing: the length rule, padding that loses nothing."""

import pytest
import torch

from data.video.framing import causal_length, latent_frames, latents_within, pad_to_multiple, pixel_frames


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_causal_length_is_the_next_fitting_one(factor):
    for frames in range(1, 40):
        length = causal_length(frames, factor)
        assert length >= frames > length - factor and (length - 1) % factor == 0
        latents = latent_frames(length, factor)
        assert pixel_frames(latents, factor) == length
        assert pixel_frames(latents_within(frames, factor), factor) <= frames < pixel_frames(latents + 1, factor)
        if frames != length:
            with pytest.raises(ValueError, match=f"until there are {length}"):
                latent_frames(frames, factor)


def test_no_frame_is_no_clip():
    with pytest.raises(ValueError, match="at least one frame"):
        causal_length(0)


@pytest.mark.parametrize("height,width", [(16, 32), (17, 31), (9, 10), (3, 20), (1, 1), (241, 427)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_padding_in_space_keeps_every_pixel_and_mirrors(height, width, dtype):
    frames = (torch.rand(2, 3, height, width) * 255).to(dtype)
    padded = pad_to_multiple(frames, 16)
    assert padded.shape[-2] % 16 == 0 == padded.shape[-1] % 16
    assert padded.shape[-2] - height < 16 and padded.shape[-1] - width < 16
    assert torch.equal(padded[..., :height, :width], frames)
    extra = padded.shape[-1] - width
    if extra:
        mirrored = (
            frames[..., -1 - extra : -1].flip(-1) if extra < width else frames[..., -1:].expand(-1, -1, -1, extra)
        )
        assert torch.equal(padded[..., :height, width:], mirrored)


def test_mirroring_agrees_with_torch():
    frames = torch.rand(1, 3, 41, 50)
    expected = torch.nn.functional.pad(frames, (0, 14, 0, 7), mode="reflect")
    assert torch.equal(pad_to_multiple(frames, 16), expected)
