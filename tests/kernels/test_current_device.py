"""The current device and stream of threads: where they compute, whoever started them."""

from contextlib import contextmanager

import pytest
import torch

from common.kernels import current_device
from common.kernels.current_device import enter_stream, steps_inside, stream_of
from common.noise_ahead import NoiseAhead
from common.seed import frame_noise


@pytest.fixture
def current(monkeypatch) -> list[str]:
    """The devices that are current, the innermost last, without a GPU."""
    devices = ["the host's own"]

    @contextmanager
    def device(of):
        devices.append(str(of))
        try:
            yield
        finally:
            devices.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    return devices


def test_steps_compute_on_their_device_and_leave_it_between_results(current):
    seen = []

    def steps():
        try:
            for n in range(5):
                seen.append(current[-1])
                yield n
        finally:
            seen.append(f"closed on {current[-1]}")

    taken = steps_inside(torch.device("cuda:1"), steps())
    for n in range(3):
        assert next(taken) == n and current == ["the host's own"]
    taken.close()
    assert seen == ["cuda:1"] * 3 + ["closed on cuda:1"] and current == ["the host's own"]


def test_errors_of_steps_pass_and_leave_the_device(current):
    def steps():
        yield 1
        raise KeyError("mine")

    taken = steps_inside(torch.device("cuda:1"), steps())
    assert next(taken) == 1
    with pytest.raises(KeyError, match="mine"):
        next(taken)
    assert current == ["the host's own"] and list(taken) == []


def test_without_a_gpu_nothing_is_entered(current):
    assert list(steps_inside(torch.device("cpu"), (len(current) for _ in range(2)))) == [1, 1]
    assert isinstance(current_device.inside(torch.device("cpu")), current_device.nullcontext)


def test_a_thread_queues_work_where_its_creator_does(monkeypatch):
    """Its device may be another than the first one, and its stream another than the default one."""
    of, entered = {"cuda": "the current device's", "cuda:1": "the second device's"}, []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: of[str(device)])
    monkeypatch.setattr(torch.cuda, "set_stream", entered.append)
    for name in ("cpu", "cuda", "cuda:1"):
        enter_stream(stream_of(torch.device(name)))
    assert entered == list(of.values())


@pytest.mark.gpu
def test_noise_is_there_for_the_stream_that_takes_it():
    """The default stream is busy for long; who works on another stream does not wait for it, nor read too early."""
    shape, device = (90, 160, 16), torch.device("cuda", 0)
    wanted = frame_noise(1, "start", 0, 3, *shape)

    def taken_in(stream: torch.cuda.Stream) -> torch.Tensor:
        with torch.cuda.stream(stream), NoiseAhead(1, "start", shape, device) as noise:
            noise.expect(0, 3)
            return noise.take(0, 3).cpu()

    other = torch.cuda.Stream(device)
    taken_in(other)  # the first use of a device takes long
    torch.cuda.synchronize()
    torch.cuda._sleep(4_000_000_000)  # cycles, about two seconds
    taken = taken_in(other)
    assert not torch.cuda.default_stream(device).query(), "the default stream was to be busy still"
    assert torch.equal(taken, wanted)
