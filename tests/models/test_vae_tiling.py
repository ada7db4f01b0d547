"""Tiles cover the picture, their weights add up, and one tile is the untiled result."""

from itertools import pairwise

import pytest
import torch

from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKLWrapper
from models.video_vae_v3.modules.schedule import direct_schedule
from models.video_vae_v3.modules.tiling import TileMemories, decode_tiled, encode_tiled, ramp, tile_spans
from tests.conftest import seed_weights


@pytest.mark.parametrize("length", [5, 16, 17, 23, 90, 160])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 4), (16, 0), (7, 3), (32, 8)])
def test_tiles_cover_everything_with_enough_overlap(length, tile, overlap):
    spans = tile_spans(length, tile, overlap)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert len({stop - start for start, stop in spans}) == 1
    for (_, stop), (start, _) in pairwise(spans):
        assert stop - start >= overlap


def test_too_much_overlap_is_refused():
    with pytest.raises(ValueError, match="below half"):
        tile_spans(100, 10, 5)


def test_ramps_of_neighbours_add_up_to_one():
    left, right = ramp(12, 5, rises=False, falls=True), ramp(12, 5, rises=True, falls=False)
    assert torch.allclose(left[-5:] + right[:5], torch.ones(5))
    assert (left[:-5] == 1).all() and (right[5:] == 1).all()


@pytest.fixture(scope="module")
def vae():
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4}
    vae = seed_weights(VideoAutoencoderKLWrapper(**sizes, temporal_scale_num=1)).eval()
    vae.set_causal_slicing(2)
    return vae


@torch.no_grad()
def test_one_tile_is_untiled(vae):
    x, z = torch.randn(1, 3, 3, 12, 16), torch.randn(1, 4, 2, 6, 8)
    assert torch.allclose(encode_tiled(vae, x, 8, 2), vae.encode_parameters(x), atol=1e-6)
    assert torch.allclose(decode_tiled(vae, z, 8, 2), vae.decode_latents(z), atol=1e-6)


@torch.no_grad()
def test_what_does_not_depend_on_the_tile_has_no_seam(vae, monkeypatch):
    """A decoder that only enlarges: blended tiles must give the enlarged picture back, to rounding."""
    z = torch.randn(1, 4, 2, 13, 22)

    def enlarge(part, memory=None):
        return part[:, :3].repeat_interleave(2, 2)[:, :, 1:].repeat_interleave(2, 3).repeat_interleave(2, 4)

    monkeypatch.setattr(vae, "decode_slice", enlarge)
    assert torch.allclose(decode_tiled(vae, z, 8, 3), enlarge(z), atol=1e-6)
    assert decode_tiled(vae, z, 8, 3).shape == (1, 3, 3, 26, 44)


@torch.no_grad()
def test_a_clip_in_pieces_is_the_clip_whole(vae):
    x, z = torch.randn(1, 3, 9, 12, 16), torch.randn(1, 4, 5, 6, 8)
    for run, clip, sizes in ((encode_tiled, x, [5, 4]), (decode_tiled, z, [2, 1, 2])):
        memories = TileMemories(vae, direct_schedule(vae.split_size, 2))
        pieces = [run(vae, piece, 5, 2, memories=memories) for piece in clip.split(sizes, dim=2)]
        assert torch.allclose(torch.cat(pieces, 2), run(vae, clip, 5, 2), atol=1e-5)


@torch.no_grad()
def test_shapes_and_finiteness_in_tiles(vae):
    moments = encode_tiled(vae, torch.randn(1, 3, 3, 20, 28), 6, 2)
    assert moments.shape == (1, 8, 2, 10, 14) and moments.isfinite().all()
