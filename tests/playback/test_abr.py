"""The bit-rate verdicts, one by one and over any history."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.playback.abr import QUIET_S, QUIET_S_MAX, Decision, View, evaluate

# The middle of three renditions, all well, too early to climb.
CALM = View(
    rung=1, rungs=3, margins=(0.8,) * 10, stalled=False, since_change_s=5.0, quiet_s=QUIET_S,
    holders=3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "rung", "why"),
    [
        ({}, 1, "keep"),
        ({"since_change_s": 10.0}, 2, "spare"),
        ({"since_change_s": 9.9}, 1, "keep"),
        ({"since_change_s": 10.0, "holders": 0}, 1, "no holders"),
        ({"since_change_s": 10.0, "margins": ()}, 1, "tight"),
        ({"since_change_s": 10.0, "margins": (0.9, 0.4, 0.9)}, 1, "tight"),
        ({"since_change_s": 10.0, "rung": 2}, 2, "keep"),
        ({"stalled": True}, 0, "late"),
        ({"stalled": True, "since_change_s": 0.9}, 1, "keep"),
        ({"stalled": True, "rung": 0}, 0, "keep"),
        ({"stalled": True, "since_change_s": 60.0}, 0, "late"),
        ({"margins": (0.1, 0.1, 0.9)}, 0, "late"),
        ({"margins": (0.1, 0.9, 0.9)}, 1, "keep"),
        ({"margins": (-2.0,) * 3}, 0, "late"),
    ],
)
def test_a_verdict(change: dict[str, float], rung: int, why: str) -> None:
    decision = evaluate(replace(CALM, **change))  # type: ignore[arg-type]

    assert (decision.rung, decision.why) == (rung, why)


def test_an_ascent_that_fails_soon_doubles_the_pause() -> None:
    late = replace(CALM, stalled=True, since_change_s=5.0)

    assert evaluate(late) == Decision(0, 2 * QUIET_S, "late")
    assert evaluate(replace(late, since_change_s=8.0)) == Decision(0, QUIET_S, "late")
    assert evaluate(replace(late, quiet_s=QUIET_S_MAX)).quiet_s == QUIET_S_MAX


def test_a_network_that_never_carries_more_is_asked_less_and_less_often() -> None:
    """Climb, stall after two seconds, climb again: the pauses grow to the longest one."""
    rung, quiet_s, since, pauses = 0, QUIET_S, 0.0, []
    for _ in range(3600):
        since += 1.0
        stalled = rung == 1 and since >= 2
        view = View(rung, 2, (0.9,) * 10, stalled, since, quiet_s, holders=1)
        decision = evaluate(view)
        if decision.rung > rung:
            pauses.append(since)
        if decision.rung != rung:
            since = 0.0
        rung, quiet_s = decision.rung, decision.quiet_s

    assert pauses[:6] == [10, 20, 40, 80, 160, 160]
    assert set(pauses[6:]) == {QUIET_S_MAX}


views = st.integers(1, 8).flatmap(
    lambda rungs: st.builds(
        View,
        rung=st.integers(0, rungs - 1),
        rungs=st.just(rungs),
        margins=st.lists(st.floats(-10, 10), max_size=10),
        stalled=st.booleans(),
        since_change_s=st.floats(0, 1000),
        quiet_s=st.floats(QUIET_S, QUIET_S_MAX),
        holders=st.integers(0, 16),
    )
)


@given(views)
def test_every_verdict_is_a_step_on_the_ladder(view: View) -> None:
    decision = evaluate(view)

    assert 0 <= decision.rung < view.rungs
    assert abs(decision.rung - view.rung) <= 1
    assert QUIET_S <= decision.quiet_s <= QUIET_S_MAX
    assert decision.why in {"late", "tight", "no holders", "spare", "keep"}


@given(views)
def test_nobody_climbs_in_trouble_or_where_nobody_can_give(view: View) -> None:
    if evaluate(view).rung > view.rung:
        assert view.holders
        assert view.margins
        assert not (view.stalled and view.rung > 0 and view.since_change_s > 1)
        assert view.since_change_s >= view.quiet_s
