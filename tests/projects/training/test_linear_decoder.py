"""The metric over latents against what the pixels say."""

import pytest
import torch

from projects.video_diffusion_sr.training.tiny.linear_decoder import LEAST, DecoderMetric, decoder_metric


class LinearVAE(torch.nn.Module):
    """Latents are an invertible linear map of 2x4x4 pixels (of 4x4 for the first frame) with very unequal gains."""

    spatial_factor, temporal_factor = 4, 2

    def __init__(self) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        gains = torch.logspace(-1, 1, 16)
        self.maps = torch.nn.ParameterList(
            torch.nn.Parameter(torch.linalg.qr(torch.randn(n, n, generator=draws))[0][:16] * gains[:, None])
            for n in (48, 96)
        )

    def encode_parameters(self, clips):
        from einops import rearrange

        parts = []
        for pixels, frames, matrix in ((clips[:, :, :1], 1, self.maps[0]), (clips[:, :, 1:], 2, self.maps[1])):
            below = rearrange(pixels, "n c (t f) (h a) (w b) -> n t h w (c f a b)", f=frames, a=4, b=4)
            parts.append((below @ matrix.T).permute(0, 4, 1, 2, 3))
        mean = torch.cat(parts, dim=2)
        return torch.cat([mean, torch.zeros_like(mean)], dim=1)  # and the logarithm of the variance

    def pixels(self, error, first: bool):
        """What an error in latents moves, for pixels that lie in the span."""
        matrix = self.maps[0 if first else 1]
        return error @ torch.linalg.pinv(matrix).T


@torch.no_grad()
def test_errors_count_as_they_show_in_the_pixels():
    """For a linear VAE the form is exact, up to the least weight that every direction has."""
    vae, draws = LinearVAE(), torch.Generator().manual_seed(1)
    # Pixels in the span of the latents, so that the map back exists.
    clips = []
    for _ in range(4):
        first = torch.randn(200, 16, generator=draws) @ torch.linalg.pinv(vae.maps[0]).T
        later = torch.randn(200, 16, generator=draws) @ torch.linalg.pinv(vae.maps[1]).T
        a = first.view(1, 1, 10, 20, 3, 1, 4, 4).permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(1, 3, 1, 40, 80)
        b = later.view(1, 1, 10, 20, 3, 2, 4, 4).permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(1, 3, 2, 40, 80)
        clips.append(torch.cat([a, b], dim=2))
    scale = 0.5
    metric = decoder_metric(vae, clips, scale)
    for first in (True, False):
        error = torch.randn(500, 16, generator=draws) / vae.maps[0].norm(dim=1)  # in latents before the scaling
        frames = torch.zeros(500, dtype=torch.long) if first else torch.ones(500, dtype=torch.long)
        weighed = metric(error * scale, frames).square().mean(1)
        wanted = vae.pixels(error, first).square().mean(1)
        factor = metric.first if first else metric.later
        least = LEAST * (error * scale).square().sum(1) * factor.square().sum() / 16 / 16
        assert (weighed >= wanted * 0.99).all() and (weighed <= wanted * 1.01 + least).all()


def test_first_and_later_frames_have_their_own_form():
    metric = DecoderMetric(torch.eye(2), 3 * torch.eye(2))
    error = torch.ones(4, 2)
    assert metric(error, torch.tensor([0, 1, 0, 2]))[:, 0].tolist() == [1.0, 3.0, 1.0, 3.0]
    assert metric.to("cpu")(error, torch.zeros(4, dtype=torch.long)).sum() == pytest.approx(8.0)


def test_no_clip_is_a_sentence():
    with pytest.raises(ValueError, match="several frames"):
        decoder_metric(LinearVAE(), [], 1.0)
