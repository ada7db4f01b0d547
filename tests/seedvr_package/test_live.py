"""A stream of pushed frames whose caller is interrupted."""

import pytest

from seedvr.errors import InputError
from seedvr.live import Live


def test_an_interrupted_push_ends_the_stream(monkeypatch):
    """Otherwise the next push would return the results of this one, and `flush` would lose the last ones."""
    live = Live(iter)
    assert live.push(1) == [1]

    class Interrupted:
        def get(self):
            raise KeyboardInterrupt

        def put(self, said):
            real.put(said)

    real, live._out = live._out, Interrupted()
    with pytest.raises(KeyboardInterrupt):
        live.push(2)
    live._out = real
    live._thread.join(60)
    assert not live._thread.is_alive(), "its restorer is free for another clip"
    with pytest.raises(InputError, match="this stream has ended"):
        live.push(3)
    assert live.flush() == []
    live.close()
