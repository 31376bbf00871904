"""When a swarm asks for more providers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from p2pstream.node.search import (
    LACK_S_MAX,
    LACK_S_MIN,
    LOOK_S,
    REST_S_MAX,
    REST_S_MIN,
    Search,
)
from p2pstream.swarm.partners import PARTNERS_WANTED


def finds(until: float, state: Callable[[float], tuple[int, bool]]) -> list[float]:
    """The times of all finds. state: how many partners there are at a time, and does it flow."""
    times, search, now = [], Search(), 0.0
    while now <= until:
        partners, flows = state(now)
        if search.due(partners, flows=flows):
            times.append(now)
        now += search.pause_s
    return times


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def test_who_has_few_partners_asks_again_soon_and_ever_more_rarely() -> None:
    found = gaps(finds(120.0, lambda _: (3, True)))

    assert found[0] == LACK_S_MIN
    assert found == sorted(found)
    assert found[-1] == LACK_S_MAX


def test_who_has_none_goes_on_asking() -> None:
    assert finds(3 * LACK_S_MIN, lambda _: (0, False)) == [n * LACK_S_MIN for n in range(4)]


def test_while_all_is_well_rests_grow_to_a_limit() -> None:
    times = finds(2000.0, lambda now: (PARTNERS_WANTED * (now > 0), now > 0))

    assert abs(times[1] - REST_S_MIN) < LOOK_S
    assert REST_S_MAX <= max(gaps(times)) < REST_S_MAX + LOOK_S


def test_where_the_stream_does_not_come_many_partners_do_not_help() -> None:
    """Half of a swarm, cut off from the broadcaster, must find the other half again."""
    times = finds(300.0, lambda now: (PARTNERS_WANTED, now < 110.0))
    after = [now for now in times if now >= 110.0]

    assert after[0] <= 110.0 + LOOK_S, "it is noticed in a rest"
    assert gaps(after)[0] == LACK_S_MIN
    assert max(gaps(after)) == LACK_S_MAX


def test_who_loses_its_partners_in_a_rest_asks_at_the_next_look() -> None:
    times = finds(200.0, lambda now: (PARTNERS_WANTED if now < 150.0 else 1, True))

    assert any(150.0 <= now <= 150.0 + LOOK_S for now in times)
