"""When a swarm looks for more providers."""

from __future__ import annotations

from itertools import pairwise

from p2pstream.node.node import FIND_AGAIN_S, FIND_S, after_find
from p2pstream.swarm.partners import PARTNERS_WANTED


def looks(partners: int, count: int) -> list[float]:
    """The times of so many looks, with that many partners all the time."""
    times, look_s = [0.0], FIND_AGAIN_S
    while len(times) < count:
        counted_at = times[-1] + look_s
        wait_s, look_s = after_find(partners, look_s)
        times.append(counted_at + wait_s)
    return times


def test_who_has_few_partners_looks_again_soon_and_ever_more_rarely() -> None:
    gaps = [after - before for before, after in pairwise(looks(3, 8))]

    assert gaps[0] == FIND_AGAIN_S
    assert gaps == sorted(gaps)
    assert gaps[-1] == FIND_S


def test_who_has_none_goes_on_looking_and_who_has_enough_takes_its_time() -> None:
    assert looks(0, 4) == [0, FIND_AGAIN_S, 2 * FIND_AGAIN_S, 3 * FIND_AGAIN_S]
    assert looks(PARTNERS_WANTED, 3) == [0, FIND_S, 2 * FIND_S]
