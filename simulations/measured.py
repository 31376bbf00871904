"""Measurements of others, read from files that a scenario names: none of them comes along.

Three kinds: *traces* (a rate over time), *matrices* (round trips between sites) and *samples*
(one number a line). Archives (.tgz, .tar) hold many traces; .gz is unpacked. Raises `BadConfig`
with the file and what is wrong with it.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

from p2pstream.errors import BadConfig

BYTES_MAX = 64 << 20  # Of one file, unpacked. The largest matrix we know has 19 MB.
TRACES_MAX = 10_000
STEPS_MAX = 1_000_000  # Of one trace.
STEP_S_MIN = 1e-3  # Shorter ones would be all that a simulation does.
SITES_MAX = 5_000

Trace = tuple[tuple[float, float], ...]
"""Steps: so many seconds at so many kbit/s. It begins anew when it is over."""


@lru_cache(maxsize=32)
def traces(path: str) -> dict[str, Trace]:
    """All traces in a file, by name.

    Known are JSON lists of `{duration_ms, bandwidth_kbps}`, JSON tables of `[[kbit/s, seconds]]`,
    and lines of `seconds Mbit/s`, from which each step lasts until the next.
    """
    found: dict[str, Trace] = {}
    for name, data in sorted(_members(path)):
        for inner, steps in _traces_of(path, name, data):
            found[inner] = _checked(path, inner, steps)
            if len(found) > TRACES_MAX:
                raise BadConfig(f"{path} holds more than {TRACES_MAX} traces")
    if not found:
        raise BadConfig(f"{path} holds no trace", hint="See docs/SIMULATION.md, Measured data.")
    return found


def traces_like(path: str, like: str) -> list[Trace]:
    """Those whose name contains `like`, in the order of their names."""
    found = [trace for name, trace in traces(path).items() if like in name]
    if not found:
        raise BadConfig(f"no trace in {path} is called like {like!r}")
    return found


@lru_cache(maxsize=8)
def matrix(path: str) -> tuple[tuple[float, ...], ...]:
    """Round trips between sites, as the file has them. What was not measured (0 or less, or nan)
    is taken from the other direction, or else it is the median of all.
    """
    rows = [[_number(path, word) for word in line.split()] for line in _text(path).splitlines()]
    rows = [row for row in rows if row]
    if not 2 <= len(rows) <= SITES_MAX or any(len(row) != len(rows) for row in rows):
        raise BadConfig(f"{path} is no square matrix of 2 to {SITES_MAX} sites")
    known = [value for row in rows for value in row if value > 0]
    if not known:
        raise BadConfig(f"{path} holds no round trip above 0")
    middle = median(known)
    return tuple(
        tuple(
            0.0 if a == b else value if value > 0 else max(rows[b][a], 0.0) or middle
            for b, value in enumerate(row)
        )
        for a, row in enumerate(rows)
    )


@lru_cache(maxsize=32)
def sample(path: str) -> tuple[float, ...]:
    """Positive numbers, one a line (the first word counts), in order of size."""
    words = [line.replace(",", " ").split() for line in _text(path).splitlines()]
    values = [_number(path, line[0]) for line in words if line and not line[0].startswith("#")]
    if not values or min(values) <= 0:
        raise BadConfig(f"{path} is no list of positive numbers")
    return tuple(sorted(values))


def _members(path: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of what is in an archive, or of the file itself."""
    data = _read(path)
    try:
        archive = tarfile.open(fileobj=io.BytesIO(data))  # noqa: SIM115  # Closed below.
    except tarfile.TarError:
        yield Path(path).name, data
        return
    total = 0
    with archive:
        for member in archive:
            source = archive.extractfile(member) if member.isfile() else None
            total += member.size
            if total > BYTES_MAX:
                raise BadConfig(f"{path} is longer than {BYTES_MAX} bytes")
            if source is not None:
                yield member.name, source.read()


def _read(path: str) -> bytes:
    """The bytes of a file, unpacked."""
    try:
        with Path(path).open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else Path(path).open("rb") as source:
            data: bytes = source.read(BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise BadConfig(f"cannot read {path}: {why}", hint="Is the name right?") from None
    if len(data) > BYTES_MAX:
        raise BadConfig(f"{path} is longer than {BYTES_MAX} bytes")
    return data


def _text(path: str) -> str:
    return _read(path).decode("utf-8", "replace")


def _traces_of(path: str, name: str, data: bytes) -> Iterator[tuple[str, list[Any]]]:
    """(name, [(seconds, kbit/s)]) of one file."""
    text = data.decode("utf-8", "replace")
    if text.lstrip()[:1] in {"[", "{"}:
        try:
            yield from _in_json(name, json.loads(text))
        except (ValueError, RecursionError):
            raise BadConfig(f"{path}: {name} is not JSON") from None
        return
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if any(len(line) != 2 for line in lines):
        raise BadConfig(f"{path}: {name} has lines that are not `seconds Mbit/s`")
    points = [(_number(path, at), _number(path, mbps)) for at, mbps in lines]
    ends = [at for at, _ in points[1:]]
    steps = [(end - at, 1000 * mbps) for (at, mbps), end in zip(points, ends, strict=False)]
    yield name, [step for step in steps if step[0]]  # Two values at one time: the later one holds.


def _in_json(name: str, value: Any) -> Iterator[tuple[str, list[Any]]]:
    """Traces wherever they are in a table; what is none is passed over."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _in_json(f"{name}:{key}", inner)
    elif isinstance(value, list) and value:
        if all(
            isinstance(s, dict) and {"duration_ms", "bandwidth_kbps"} <= s.keys() for s in value
        ):
            yield name, [(_over(s["duration_ms"], 1000), s["bandwidth_kbps"]) for s in value]
        elif all(isinstance(step, list) and len(step) == 2 for step in value):
            yield name, [(seconds, kbps) for kbps, seconds in value]


def _over(value: Any, by: float) -> Any:
    return value / by if isinstance(value, (int, float)) else value


def _checked(path: str, name: str, steps: list[Any]) -> Trace:
    numbers = all(isinstance(x, (int, float)) and isfinite(x) for step in steps for x in step)
    if not numbers or not 1 <= len(steps) <= STEPS_MAX:
        raise BadConfig(f"{path}: {name} is no trace of 1 to {STEPS_MAX} steps")
    if any(seconds < STEP_S_MIN or kbps < 0 for seconds, kbps in steps):
        raise BadConfig(f"{path}: {name}: a step below {STEP_S_MIN:g} s, or a negative rate")
    return tuple((float(seconds), float(kbps)) for seconds, kbps in steps)


def _number(path: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise BadConfig(f"{path}: {word[:40]!r} is no number") from None
    return value if isfinite(value) else 0.0
