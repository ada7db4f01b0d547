"""Does each stage do what the papers say? One assertion a stage, on the problem of `known_answer`."""

import pytest

from tests.projects.training.known_answer import Answers, gather

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory) -> dict[str, Answers]:
    """One run of the recipe, about three minutes of one core."""
    return gather(tmp_path_factory.mktemp("evidence"), seed=0)


def test_one_step_of_diffusion_is_a_mean_and_many_are_samples(evidence):
    row = {n: evidence[f"diffusion in {n}"] for n in (1, 2, 4, 8, 32)}
    assert row[1].near < 0.6 < 0.9 < row[32].near
    assert row[1].near < row[2].near < row[8].near
    assert abs(row[32].balance) < 0.15  # both answers, half each
    assert row[1].error < row[32].error and row[32].error == pytest.approx(0.72, abs=0.08)


def test_distillation_brings_samples_into_one_step(evidence):
    few = evidence["distilled to 1"]
    assert evidence["distilled to 4"].near > evidence["diffusion in 4"].near - 0.05
    assert few.near > evidence["diffusion in 1"].near + 0.2
    assert abs(few.balance) < 0.15


def test_the_adversarial_stage_repairs_what_the_last_round_lost(evidence):
    assert evidence["adversarial"].near > evidence["distilled to 1"].near + 0.05
    assert evidence["adversarial"].size == pytest.approx(1, abs=0.15)
    assert abs(evidence["adversarial"].balance) < 0.4  # neither answer is lost; one alone would be 1


def test_without_its_discriminator_it_pulls_towards_the_mean(evidence):
    assert evidence["no gan"].size < evidence["distilled to 1"].size - 0.03
    assert evidence["no gan"].error < evidence["distilled to 1"].error - 0.02
    assert evidence["no gan"].near < evidence["adversarial"].near - 0.05
