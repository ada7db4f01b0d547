"""A long clip and a folder, ended again and again at random moments: in the end the bytes of an undisturbed run.

Whoever is hit: the whole run at once, as by a power cut, the first process alone, or one of those that it started.
`SEEDVR_ATTACK_KILLS` (20, for instance) and `SEEDVR_ATTACK_SEED` choose more moments and other ones.
"""

import os
import signal

import pytest

from tests.attacks.attack import SETTINGS, VICTIMS, has_traceback, new_attack

KILLS = int(os.environ.get("SEEDVR_ATTACK_KILLS", "3"))
WISHES = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

pytestmark = [pytest.mark.slow, pytest.mark.parallel, pytest.mark.timeout(max(600, 120 * KILLS))]


@pytest.mark.parametrize("setting", SETTINGS)
def test_killed_again_and_again_gives_the_same_bytes(tmp_path, setting):
    attack = new_attack(tmp_path, setting)
    while sum(attack.seen[who] for who in VICTIMS) < KILLS:
        attack.hit()
    attack.run_through()
    print(dict(attack.seen))


@pytest.mark.parametrize("setting", SETTINGS)
def test_asked_to_end_again_and_again_gives_the_same_bytes(tmp_path, setting):
    """Whatever the run is asked by, nothing unfinished stays but segments."""
    attack = new_attack(tmp_path, setting)
    while sum(attack.seen[who] for who in VICTIMS) < KILLS:
        number = attack.draws.choice(WISHES)
        said = attack.hit(number)
        if said is not None:
            assert not has_traceback(said), said
            assert [path.name for path in attack.unfinished()] == [], said
    attack.run_through()
    print(dict(attack.seen))
