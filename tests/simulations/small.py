"""Scenarios of a few hosts and seconds, for tests."""

from __future__ import annotations

from typing import Any

from simulations.checkers import Checker, Verdict
from simulations.reading import make
from simulations.scenario import Scenario
from simulations.simulation import Outcome, Simulation

ORIGIN = {"name": "origin", "role": "origin"}
SEED = {"name": "seed", "role": "seed", "up_kbps": 100_000}


def values(*groups: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """What a file would say. Without groups: four homes."""
    homes = {"name": "homes", "n": 4, "arrive": {"law": "steady", "apart_s": 0.3}}
    return {
        "purpose": "a scenario for a test",
        "name": "small",
        "groups": [ORIGIN, SEED, *(groups or (homes,))],
        "phases": {"warm_up_s": 3, "chaos_s": 4, "check_s": 2},
        **keys,
    }


def scenario(*groups: dict[str, Any], **keys: Any) -> Scenario:
    return make(values(*groups, **keys), "small.toml")


def run(*groups: dict[str, Any], seed: int = 1, **keys: Any) -> Outcome:
    return Simulation(scenario(*groups, **keys), seed).run()


def verdict(outcome: Outcome, name: str) -> Verdict:
    return next(v for v in outcome.verdicts if name in v.name)


def watched_by(checker: Checker, *groups: dict[str, Any], **keys: Any) -> Verdict:
    """What one checker says of a run."""
    outcome = Simulation(scenario(*groups, **keys), 1, checkers=[checker]).run()
    return next(v for v in outcome.verdicts if v.name == checker.name)
