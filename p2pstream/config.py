"""The configuration file: defaults for the options of `broadcast`, `watch` and `seed`.

TOML, one table a command, keys as the options are called on the command line. The command line wins
over the environment (P2PSTREAM_<COMMAND>_<OPTION>), which wins over the file. What we do not
understand is refused, with the nearest name that we do.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from p2pstream.errors import BadConfig
from p2pstream.node.state import Paths

FILE_BYTES_MAX = 64 * 1024


class Network(msgspec.Struct, forbid_unknown_fields=True, rename="kebab", frozen=True):
    """What all nodes have. None: not said."""

    host: str | None = None
    port: int | None = None
    advertise: str | None = None
    yields: bool | None = msgspec.field(default=None, name="yield")  # A word of Python's.


class Broadcast(Network, forbid_unknown_fields=True, rename="kebab", frozen=True):
    """`p2pstream broadcast`."""

    seed: list[str] | None = None
    name: str | None = None
    title: str | None = None
    loop: bool | None = None
    ladder: str | None = None
    copies: float | None = None


class Watch(Network, forbid_unknown_fields=True, rename="kebab", frozen=True):
    """`p2pstream watch`."""

    player: str | None = None
    http_port: int | None = None
    copies: float | None = None


class Seed(Network, forbid_unknown_fields=True, rename="kebab", frozen=True):
    """`p2pstream seed`."""

    name: str | None = None
    bootstrap: list[str] | None = None
    copies: float | None = None
    streams: int | None = None


class File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file."""

    broadcast: Broadcast = Broadcast()
    watch: Watch = Watch()
    seed: Seed = Seed()


def defaults(path: str | None, command: str) -> dict[str, Any]:
    """What the file says for `command`, by parameter name. Raises `BadConfig`.

    path: as given by the user; None: the usual place, where no file is needed.
    """
    file = Path(path) if path else Paths.default().config
    if path is None and not file.exists():
        return {}
    table = getattr(_load(file), command)
    return {
        key: value for key in table.__struct_fields__ if (value := getattr(table, key)) is not None
    }


def _load(file: Path) -> File:
    try:
        data = file.read_bytes()[: FILE_BYTES_MAX + 1]
        values = tomllib.loads(data.decode())
    except OSError as error:
        raise BadConfig(
            f"cannot read {file}: {error.strerror}", hint="Check --config and the file's rights."
        ) from None
    except (ValueError, RecursionError) as error:  # Of TOML and of UTF-8.
        raise BadConfig(f"{file} is not TOML: {error}", hint="Mend that line.") from None
    if len(data) > FILE_BYTES_MAX:
        raise BadConfig(f"{file} is longer than {FILE_BYTES_MAX} bytes")
    _check_names(file, values)
    try:
        return msgspec.convert(values, File)
    except msgspec.ValidationError as error:
        raise BadConfig(f"{file}: {error}", hint="See docs/OPERATING.md.") from None


def _check_names(file: Path, values: dict[str, Any]) -> None:
    tables = {field.encode_name: field.type for field in msgspec.structs.fields(File)}
    for name, table in values.items():
        if name not in tables:
            raise BadConfig(f"{file}: unknown table [{name}]", hint=_nearest(name, tables))
        known = [field.encode_name for field in msgspec.structs.fields(tables[name])]
        for key in table if isinstance(table, dict) else ():
            if key not in known:
                raise BadConfig(f"{file}: unknown key {name}.{key}", hint=_nearest(key, known))


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(sorted(known))}."
