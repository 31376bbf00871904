"""The smallest scenario that still fails: fewer faults, fewer groups, fewer hosts.

Greedy, as delta debugging is (Zeller and Hildebrandt 2002): what can be left out is left out, until
nothing can. It stays the same failure: the verdict that failed first in the whole scenario.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from p2pstream.errors import BadConfig, UserError
from simulations.reading import make
from simulations.runner import run_one

RUNS_MAX = 300

Values = dict[str, Any]
Told = Callable[[int, int, str], None]  # Hosts, faults, what came of it.


@dataclass(slots=True)
class Shrinker:
    """values: of the scenario (`reading.load`), which fails with `seed`."""

    values: Values
    where: str
    seed: int
    told: Told
    tier: str = "core"
    failure: str = ""
    runs: int = 0
    _known: dict[str, bool] = field(default_factory=dict)

    def shrink(self) -> Values:
        """Raises `UserError` when nothing fails."""
        failed = self._failures(self.values)
        if not failed:
            raise UserError(
                f"{self.where}, seed {self.seed}: nothing fails", hint="Try another seed."
            )
        self.failure = failed[0]
        best, smaller = self.values, True
        while smaller:
            smaller = False
            for less in _smaller(best):
                if self._still_fails(less):
                    best, smaller = less, True
                    break
        return best

    def _still_fails(self, values: Values) -> bool:
        key = json.dumps(values, sort_keys=True)
        if key not in self._known:
            self._known[key] = self.runs < RUNS_MAX and self.failure in self._failures(values)
        return self._known[key]

    def _failures(self, values: Values) -> list[str]:
        """The names of the verdicts that fail; none of a scenario that makes no sense."""
        try:
            scenario = make(values, self.where)
        except BadConfig:
            return []
        self.runs += 1
        try:
            outcome = run_one(scenario, self.seed, tier=self.tier)
            failed = [verdict.name for verdict in outcome.verdicts if not verdict.passed]
        except AssertionError as error:  # A broken build: that is a failure like any other.
            failed = [type(error).__name__]
        hosts = sum(group.n for group in scenario.groups)
        self.told(hosts, len(scenario.faults), failed[0] if failed else "passes")
        return failed


def _smaller(values: Values) -> Iterator[Values]:
    """What to try next, the boldest first."""
    faults, groups = values.get("faults", []), values["groups"]
    if len(faults) > 1:
        yield _with(values, faults=[])
    for nth in range(len(faults)):
        yield _with(values, faults=faults[:nth] + faults[nth + 1 :])
    for nth, group in enumerate(groups):
        if group.get("role") != "origin":
            yield _without(values, group["name"], groups[:nth] + groups[nth + 1 :])
    for nth, group in enumerate(groups):
        for fewer in _fewer(group.get("n", 1)):
            less = group | {"n": fewer}
            yield _with(values, groups=[*groups[:nth], less, *groups[nth + 1 :]])


def _fewer(n: int) -> Iterator[int]:
    """1, half, three quarters, ... n - 1."""
    step = n - 1
    while step > 0:
        yield n - step
        step //= 2


def _with(values: Values, **keys: Any) -> Values:
    return deepcopy({**values, **keys})


def _without(values: Values, name: str, groups: list[Values]) -> Values:
    """Without a group, and without what is said of it elsewhere."""
    faults = [fault for fault in values.get("faults", []) if fault.get("group") != name]
    expect = {
        key: bound
        for key, bound in values.get("expect", {}).items()
        if not key.startswith(f"by_class.{name}.")
    }
    return _with(values, groups=groups, faults=faults, expect=expect)


def toml(values: Values) -> str:
    """A scenario as a file: numbers, words and lists first, then tables."""
    plain = {k: v for k, v in values.items() if not _is_table(v) and not _are_tables(v)}
    parts = [_lines(plain)]
    for key, value in values.items():
        if _is_table(value) and value:
            parts.append(f"[{key}]\n{_lines(value)}")
        elif _are_tables(value):
            parts += [f"[[{key}]]\n{_lines(one)}" for one in value]
    return "\n".join(part for part in parts if part)


def _lines(table: Values) -> str:
    return "".join(f"{_key(key)} = {_inline(value)}\n" for key, value in table.items())


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _key(key: str) -> str:
    return key if key.replace("_", "").isalnum() else json.dumps(key)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # TOML writes inf and nan as Python does.
    return json.dumps(value, ensure_ascii=False)
