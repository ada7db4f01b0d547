"""The last layer's closed form: a least-squares solution, and nothing else of the network is touched."""

import copy

import pytest
import torch

from common.config import load_config
from common.create import create_object
from projects.video_diffusion_sr.training.tiny.ridge_head import solve_head

SIZE = (2, 32, 32)  # 512 tokens


@pytest.fixture(scope="module")
def dit():
    torch.manual_seed(0)
    dit = create_object(load_config("configs_tiny/main.yaml", ["dit.model.num_layers=2"]).dit.model).eval()
    torch.nn.init.normal_(dit.vid_out.proj.bias)
    return dit


def predictor(dit, condition):
    text = torch.zeros(4, dit.config.txt_in_dim)
    given = torch.cat([condition, torch.ones_like(condition[:, :1])], dim=1)

    def predict(x):
        return dit(torch.cat([x, given], 1), text, [SIZE], [[4]], 1000.0).vid_sample

    return predict


@pytest.fixture(scope="module")
def condition():
    return torch.randn(2 * 32 * 32, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_layer_that_could_answer_exactly_is_found(dit, condition):
    """Truths made by the network itself: after its last layer is spoilt, the solution is the layer that made them."""
    noise = torch.randn(condition.shape, generator=torch.Generator().manual_seed(0))  # as the function draws it
    truth = noise - predictor(dit, condition)(noise)
    spoilt = copy.deepcopy(dit)
    spoilt.vid_out.proj.weight.add_(0.1 * torch.randn_like(spoilt.vid_out.proj.weight))
    before, after = solve_head(spoilt, [(truth, SIZE, predictor(spoilt, condition))], penalty=1e-9)
    assert before > 1e-2 and after < 1e-6
    for (name, a), b in zip(spoilt.named_parameters(), dit.parameters(), strict=True):
        if name.startswith("vid_out"):
            torch.testing.assert_close(a, b, atol=1e-2, rtol=0)
        else:
            assert torch.equal(a, b), name


@torch.no_grad()
def test_errors_are_those_of_the_network(dit, condition):
    """Both returned errors are what the network makes, before and after; the second is not larger."""
    truth = torch.randn(condition.shape, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(condition.shape, generator=torch.Generator().manual_seed(0))
    fitted = copy.deepcopy(dit)
    predict = predictor(fitted, condition)
    measured = [(predict(noise) - (noise - truth)).square().mean().item()]
    errors = solve_head(fitted, [(truth, SIZE, predict)])
    measured.append((predict(noise) - (noise - truth)).square().mean().item())
    assert errors == pytest.approx(tuple(measured), rel=1e-3)
    assert errors[1] < errors[0]


@torch.no_grad()
def test_the_penalty_holds_the_layer_where_it_was(dit, condition):
    fitted = copy.deepcopy(dit)
    solve_head(fitted, [(condition, SIZE, predictor(fitted, condition))], penalty=1e12)
    torch.testing.assert_close(fitted.vid_out.proj.weight, dit.vid_out.proj.weight, atol=1e-6, rtol=0)


@torch.no_grad()
def test_clips_may_be_weighed_by_what_can_be_gained_on_them(dit, condition):
    """A hopeless clip (its truth is noise of variance 100) beside an easy one: log errors fall more by weighing."""
    draws = torch.Generator().manual_seed(3)
    truths = [condition + 0.1 * torch.randn(condition.shape, generator=draws)]
    truths.append(10 * torch.randn(condition.shape, generator=draws))

    def log_errors(weigh):
        fitted = copy.deepcopy(dit)
        predict = predictor(fitted, condition)
        for _ in range(3):  # each solution weighs by the errors of the one before
            solve_head(fitted, [(truth, SIZE, predict) for truth in truths], weigh=weigh)
        noise = torch.randn(condition.shape, generator=draws)
        return sum((noise - predict(noise) - truth).square().mean().log().item() for truth in truths)

    assert log_errors(lambda error, size: 1 / (error.square().mean().item() + 0.003)) < log_errors(None) - 0.1
