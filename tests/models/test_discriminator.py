"""The discriminator: one logit a sample that does not depend on its neighbours, from features of the right blocks."""

import copy
import json
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from models.dit.nadit import NaDiT as NaDiT7B
from models.dit_v2.nadit import NaDiT as NaDiT3B
from models.nadit.discriminator import Discriminator, QueryHead, proportional_taps
from tests.conftest import GOLDEN, seed_weights, seeded

META = json.loads((GOLDEN / "meta.json").read_text())
SIZES, TEXTS = [(1, 4, 6), (3, 4, 4), (3, 4, 4), (1, 4, 6)], [3, 5, 3, 3]


@pytest.fixture(scope="module", params=[("v1_small", NaDiT7B), ("v2_small", NaDiT3B)], ids=["7B", "3B"])
def discriminator(request) -> Discriminator:
    name, door = request.param
    return seed_weights(Discriminator(door(**META[f"dit/{name}"]["config"]))).eval()


def discriminate(discriminator: Discriminator, chosen: list[int]):
    backbone = discriminator.backbone
    vid = torch.cat([seeded(f"d/vid{i}", (*SIZES[i], 33)).flatten(0, 2) for i in chosen])
    txt = torch.cat([seeded(f"d/txt{i}", (TEXTS[i], backbone.config.txt_in_dim)) for i in chosen])
    sizes, lengths = [SIZES[i] for i in chosen], [TEXTS[i] for i in chosen]
    times = torch.tensor([50.0 + 300 * i for i in chosen])
    return discriminator(vid, txt, sizes, [[n] for n in lengths], times, layout=backbone.layout(sizes, lengths))


@torch.no_grad()
def test_packing_does_not_change_a_logit(discriminator):
    together = discriminate(discriminator, [0, 1, 2, 3]).logits
    assert together.shape == (4,)
    for i in range(4):
        assert (discriminate(discriminator, [i]).logits[0] - together[i]).abs() <= 1e-5
    assert (discriminate(discriminator, [3, 0, 2]).logits - together[[3, 0, 2]]).abs().max() <= 1e-5


@torch.no_grad()
def test_features_are_the_video_tokens_after_the_tapped_blocks(discriminator):
    seen = []
    hooks = [block.register_forward_hook(lambda m, i, o: seen.append(o[0])) for block in discriminator.backbone.blocks]
    features = discriminate(discriminator, [0, 1]).features
    for hook in hooks:
        hook.remove()
    assert len(features) == len(discriminator.taps) and discriminator.taps[-1] == len(seen) - 1
    assert all(torch.equal(f, seen[tap]) for f, tap in zip(features, discriminator.taps, strict=True))


@torch.no_grad()
def test_weights_in_bfloat16_do_not_round_logits(discriminator):
    """As sharded training gathers them: the penalties are squares of small differences of logits."""
    said = [seeded(f"d/said{i}", (4, discriminator.backbone.config.dim)).bfloat16() for i in discriminator.taps]
    half = copy.deepcopy(discriminator).bfloat16()
    exact = copy.deepcopy(half).double()
    expected = exact.out(exact.norm(torch.cat(said, dim=1).double())).squeeze(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert (half.logits(said) - expected).abs().max() <= 1e-5


class Collected(NamedTuple):
    """What a head asks of a layout, where its own tokens are known and the other shares' parts too."""

    token_counts: list[int]
    parts: list[torch.Tensor]

    @property
    def exchange(self):
        return self

    def collect(self, part: torch.Tensor, purpose: str) -> torch.Tensor:
        self.parts.append(part)
        return torch.stack(self.parts)


def read_by_shares(head: QueryHead, tokens: torch.Tensor, counts: list[int], shares: int) -> torch.Tensor:
    """What the last share says after the others; the second has none of the first sample, the third one token."""
    sample = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    owner = torch.tensor([0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 2, 0, 1]) % shares
    parts = []
    for share in range(shares):
        own = owner == share
        result = head(tokens[own], Collected(torch.bincount(sample[own], minlength=len(counts)).tolist(), parts))
    return result


@torch.no_grad()
@pytest.mark.parametrize("shares", [1, 3])
def test_a_head_is_cross_attention_of_one_query_over_each_sample(shares):
    head = seed_weights(QueryHead(12, 2, 4, 1e-5)).double()
    counts = [5, 5, 3]
    tokens = torch.randn(13, 12, dtype=torch.float64)
    result = read_by_shares(head, tokens, counts, shares)
    for row, x in zip(result, tokens.split(counts), strict=True):
        x = head.norm_tokens(x)
        k, v = (head.proj_kv(x)[:, i * 8 : (i + 1) * 8].view(-1, 2, 4) for i in range(2))
        q = head.proj_q(head.norm_query(head.query)).view(2, 4)
        q, k = head.norm_q(q), head.norm_k(k)
        out = [torch.softmax(k[:, h] @ q[h] / 2.0, 0) @ v[:, h] for h in range(2)]  # sqrt of a head's width is 2
        y = head.query + head.proj_out(torch.cat(out))
        y = y + head.mlp[2](F.gelu(head.mlp[0](head.norm_mlp(y)), approximate="tanh"))
        torch.testing.assert_close(row, y)


def test_gradients_reach_every_block_and_head(discriminator):
    discriminate(discriminator, [0, 1]).logits.sum().backward()
    for part in [*discriminator.backbone.blocks, *discriminator.heads, discriminator.norm, discriminator.out]:
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    discriminator.zero_grad()


def test_taps_stand_as_deep_as_in_the_papers():
    assert proportional_taps(36) == (16, 26, 36)
    assert proportional_taps(32) == (14, 23, 32)
    assert proportional_taps(10) == (4, 7, 10)
    assert proportional_taps(1) == (1,)


def test_impossible_taps_are_refused():
    backbone = NaDiT3B(**META["dit/v2_small"]["config"])
    for taps in ([0, 1], [2, 1], [1, 99], []):
        with pytest.raises(ValueError, match="must rise and lie in"):
            Discriminator(backbone, taps)
