"""From a file to a `Scenario`, or to one message that says which key of which file is wrong."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import types
import typing
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from p2pstream.errors import BadConfig
from simulations import measured
from simulations.fabric.nat import Kind
from simulations.scenario import (
    BandwidthTrace,
    Choice,
    Group,
    Matrix,
    Sample,
    Scenario,
    Trace,
    Uniform,
)

FOLDER = Path(__file__).parent / "scenarios"
FILE_BYTES_MAX = 64 * 1024
HOSTS_MAX = 1_100_000  # Of the largest tier; `tiers.py` says which has room for how many.
# How msgspec calls kinds of values, and how people do who write TOML.
WORDS = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false",
    "array": "a list", "object": "a table", "null": "nothing",
}  # fmt: skip
UNITS = {  # By how a key ends.
    "_kbps": "1000 is 1 Mbit/s.", "_ms": "In milliseconds.", "_s": "In seconds.",
    "_km": "In kilometres.", "_kb": "In kilobytes.",
}  # fmt: skip

Unknown = tuple[str, str, list[str]]  # Where, what is wrong, and what there is.


def names() -> list[str]:
    """The scenarios that come with p2pstream."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(name: str) -> Path:
    """The file of a scenario, by its path or its name. Raises `BadConfig`."""
    path = Path(name)
    if path.suffix == ".toml" or "/" in name:
        return path
    ours = FOLDER / f"{name}.toml"
    if not ours.exists():
        raise BadConfig(f"there is no scenario {name!r}", hint=nearest(name, names()))
    return ours


def read(path: Path) -> Scenario:
    """The scenario in `path`, all of it checked. Raises `BadConfig`."""
    return make(load(path), str(path))


def readable(name: str) -> str:
    """`name`, when its scenario is there and right. Raises what `argparse` shows of a `type`."""
    try:
        read(find(name))
    except BadConfig as error:
        raise ArgumentTypeError(f"{error}. {error.hint}") from None
    return name


def load(path: Path) -> dict[str, Any]:
    """What `path` says, for `make`. Raises `BadConfig`."""
    try:
        data = path.read_bytes()
        if len(data) > FILE_BYTES_MAX:
            raise BadConfig(f"{path} is longer than {FILE_BYTES_MAX} bytes")
        values = tomllib.loads(data.decode())
    except OSError as error:
        raise BadConfig(
            f"cannot read {path}: {error.strerror}", hint="Is the name right?"
        ) from None
    except ValueError as error:  # Of TOML and of UTF-8.
        raise BadConfig(f"{path} is not TOML: {error}", hint="Mend that line.") from None
    values.setdefault("name", path.stem)
    _find_files(values, path.parent.absolute())
    return values


def make(values: dict[str, Any], where: str) -> Scenario:
    """The scenario in `values`. where: what to call it in messages. Raises `BadConfig`."""
    for key, name, known in _unknown(values, Scenario, ""):
        raise BadConfig(f"{where}: unknown {key}", hint=nearest(name, known))
    try:
        scenario = msgspec.convert(values, Scenario)
    except msgspec.ValidationError as error:
        problem, hint = _plain(str(error), values)
        raise BadConfig(f"{where}: {problem}", hint=hint) from None
    for key, problem, hint in _problems(scenario):
        raise BadConfig(f"{where}: {key}: {problem}", hint=hint)
    return scenario


def _find_files(value: Any, folder: Path) -> None:
    """Files of measurements are looked for from the scenario's own folder on."""
    inner = value.values() if isinstance(value, dict) else value
    for each in inner:
        if isinstance(each, (dict, list)):
            _find_files(each, folder)
    if isinstance(value, dict) and isinstance(value.get("file"), str):
        value["file"] = str(folder / value["file"])


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(sorted(known))}."


def _unknown(values: Any, kind: Any, path: str) -> Iterator[Unknown]:
    """Keys and words that nothing here has."""
    if isinstance(values, list):
        for nth, value in enumerate(values):
            yield from _unknown(value, kind, f"{path}[{nth}]")
        return
    if not isinstance(values, dict):
        return
    tables = list(_tables(kind))
    fitting = [table for table in tables if _tag_fits(table, values)]
    if not tables:
        return
    if not fitting:
        field = next(t.__struct_config__.tag_field for t in tables if t.__struct_config__.tag)
        if field not in values:
            return  # msgspec says what is lacking.
        tags = [str(t.__struct_config__.tag) for t in tables]
        yield f"{field} {values[field]!r} at {path}", str(values[field]), tags
        return
    yield from _unknown_in(values, fitting[0], path)


def _unknown_in(values: dict[str, Any], table: Any, path: str) -> Iterator[Unknown]:
    fields = {f.encode_name: f.type for f in msgspec.structs.fields(table)}
    config = table.__struct_config__
    known = [*fields, *([config.tag_field] if config.tag else [])]
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        choices = typing.get_args(fields.get(key))
        if key not in known:
            yield f"key {here}", key, known
        elif key not in fields:
            continue  # The tag: it fits.
        elif typing.get_origin(fields[key]) is not typing.Literal:
            yield from _unknown(value, fields[key], here)
        elif value not in choices:
            yield f"{key} {value!r} at {path}", str(value), list(choices)


def _tables(kind: Any) -> Iterator[Any]:
    """The tables that may stand where `kind` is said."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        return
    origin = typing.get_origin(kind)
    if origin in {list, typing.Annotated, typing.Union, types.UnionType}:
        arguments = typing.get_args(kind)
        for one in arguments[:1] if origin is typing.Annotated else arguments:
            yield from _tables(one)


def _tag_fits(table: Any, values: dict[str, Any]) -> bool:
    config = table.__struct_config__
    return config.tag is None or values.get(config.tag_field) == config.tag


def _plain(error: str, values: dict[str, Any]) -> tuple[str, str]:
    """msgspec's message, with the key and its value first, and a hint."""
    error = re.sub(r"`([a-z |]+)`", _in_words, error)
    found = re.fullmatch(r"(.*?) - at `\$\.?(.*?)`", error)
    hint = "What each key takes is in docs/SIMULATION.md."
    if not found or not found[2]:
        return error, hint
    said, key = found[1], found[2]
    unit = next((words for end, words in UNITS.items() if re.search(rf"{end}\b", key)), "")
    value = _at(values, key)
    shown = f" = {json.dumps(value)}" if isinstance(value, (int, float, str)) else ""
    return f"{key}{shown}: {said[0].lower()}{said[1:]}", f"{unit} {hint}".lstrip()


def _in_words(kinds: re.Match[str]) -> str:
    """`str | object` as people say it."""
    return " or ".join(WORDS.get(kind, kind) for kind in kinds[1].split(" | "))


def _at(values: Any, key: str) -> Any:
    """What stands at `groups[0].up_kbps`; None where the way there is not that plain."""
    for name, nth in re.findall(r"(\w+)|\[(\d+)\]", key):
        try:
            values = values[name] if name else values[int(nth)]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _problems(scenario: Scenario) -> Iterator[tuple[str, str, str]]:
    """(key, what is wrong, what to do) of what types cannot say."""
    yield from _group_problems(scenario)
    yield from _fault_problems(scenario)
    groups = [group.name for group in scenario.groups]
    for name, bound in scenario.expect.items():
        if bound.min is None and bound.max is None:
            yield f"expect.{name}", "neither min nor max", "Say what it must keep to."
        if not _is_metric(name, groups):
            yield f"expect.{name}", "no such figure", nearest(name, _metrics())
    for one in scenario.sometimes:
        if one not in _coverage():
            yield f"sometimes {one!r}", "no such event", nearest(one, _coverage())


def _fault_problems(scenario: Scenario) -> Iterator[tuple[str, str, str]]:
    groups = [group.name for group in scenario.groups]
    chaos_s = scenario.phases.chaos_s
    for nth, fault in enumerate(scenario.faults):
        key = f"faults[{nth}]"
        group = getattr(fault, "group", None)
        if group is not None and group not in groups:
            yield f"{key}.group", f"there is no group {group!r}", nearest(group, groups)
        if isinstance(fault, BandwidthTrace):
            law = Trace(file=fault.file, like=fault.like)
            yield from _file_problems(key, law)
        if fault.at_s > chaos_s:
            yield f"{key}.at_s", f"after the chaos phase ({chaos_s:g} s)", "Raise phases.chaos_s."
        ends_s = scenario.measured_from_s + fault.at_s + getattr(fault, "for_s", 0.0)
        if ends_s > scenario.duration_s:
            yield f"{key}.for_s", "it is not over when the run is", "Raise phases.heal_s."


def _group_problems(scenario: Scenario) -> Iterator[tuple[str, str, str]]:
    seen: set[str] = set()
    for nth, group in enumerate(scenario.groups):
        key = f"groups[{nth}]"
        if group.name in seen:
            yield f"{key}.name", f"a second group {group.name!r}", "Give it another name."
        seen.add(group.name)
        yield from _law_problems(key, group)
    origins = sum(group.n for group in scenario.groups if group.role == "origin")
    if origins != 1:
        yield "groups", f"{origins} hosts have the role origin", "Exactly one must."
    if sum(group.n for group in scenario.groups) > HOSTS_MAX:
        yield "groups", f"more than {HOSTS_MAX} hosts", "Use fewer."
    if not any(group.role == "viewer" for group in scenario.groups):
        yield "groups", "no viewers", 'Add a group with role = "viewer".'


def _law_problems(key: str, group: Group) -> Iterator[tuple[str, str, str]]:
    kinds = [kind.value for kind in Kind]
    mix = group.nat if isinstance(group.nat, dict) else {group.nat: 1.0}
    for kind in mix:
        if kind not in kinds:
            yield f"{key}.nat", f"no NAT is {kind!r}", nearest(kind, kinds)
    if abs(sum(mix.values()) - 1) > 1e-6:
        yield f"{key}.nat", f"the shares add up to {sum(mix.values()):g}", "Make that 1."
    if group.role != "viewer" and set(mix) != {"none"}:
        yield f"{key}.nat", "only viewers may be behind a NAT", "Others must be reachable."
    for name in msgspec.structs.fields(Group):
        law = getattr(group, name.name)
        if isinstance(law, Uniform) and law.low >= law.high:
            yield f"{key}.{name.name}", "low is not below high", "Swap them."
        if isinstance(law, Choice) and law.weights and len(law.weights) != len(law.values):
            yield f"{key}.{name.name}.weights", "not one for each value", "Add or drop some."
        yield from _file_problems(f"{key}.{name.name}", law)


def _file_problems(key: str, law: Any) -> Iterator[tuple[str, str, str]]:
    """Measurements are read before anything runs."""
    try:
        match law:
            case Trace():
                measured.traces_like(law.file, law.like)
            case Sample():
                measured.sample(law.file)
            case Matrix():
                measured.matrix(law.file)
    except BadConfig as error:
        yield f"{key}.file", str(error), error.hint


def _metrics() -> list[str]:
    from simulations.metrics import NAMES  # noqa: PLC0415  # It imports the whole simulation.

    return list(NAMES)


def _coverage() -> list[str]:
    from simulations.metrics import COVERAGE  # noqa: PLC0415  # As above.

    return list(COVERAGE)


def _is_metric(name: str, groups: list[str]) -> bool:
    first, _, rest = name.partition(".")
    if first != "by_class":
        return name in _metrics()
    from simulations.metrics import CLASS_NAMES  # noqa: PLC0415  # As above.

    group, _, figure = rest.partition(".")
    return group in groups and figure in CLASS_NAMES
