"""The documents say what the code does: vectors, messages, commands, options, links."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from p2pstream.cli import COMMANDS, EXIT_CODES, cli
from p2pstream.config import File
from p2pstream.dht import records
from p2pstream.errors import BadMessage, UserError
from p2pstream.net import doorman, link
from p2pstream.net.link import Close
from p2pstream.stream import chunk, window
from p2pstream.swarm import limbo, partners
from p2pstream.swarm import messages as swarm
from p2pstream.wire.codec import Codec, Message
from tests.make_vectors import BEGIN, MESSAGES, documents, messages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "bootstrap").rglob("*.md")],
    key=str,
)
WIRE = (DOCS / "wire.md").read_text()
# How a command line looks in a document: the command in code, up to the end of that code.
COMMAND = re.compile(r"p2pstream +(?:--config \S+ +)?([a-z]+)\b([^`\n]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def test_the_vectors_are_what_the_code_makes() -> None:
    for path, text in documents().items():
        assert path.read_text() == text, f"run python -m tests.make_vectors: {path.name} is old"


def test_every_hex_vector_in_the_text_is_in_the_file() -> None:
    known = json.dumps(json.loads((DOCS / "vectors.json").read_text()))
    blocks = re.findall(r"```\n([^`]*)```", WIRE.partition(BEGIN)[2])

    assert len(blocks) > 30
    for block in blocks:
        assert block.replace("\n", "").strip() in known, block[:60]


def test_every_message_has_a_vector_that_reads_back() -> None:
    assert set(messages()) == {kind.__name__ for kind in MESSAGES}
    vectors = json.loads((DOCS / "vectors.json").read_text())["messages"]
    codec = Codec(*MESSAGES)
    for name, message in messages().items():
        assert codec.unpack(bytes.fromhex(vectors[name]["bytes"])) == message


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_and_field_is_in_the_specification(kind: type[Message]) -> None:
    tag = kind.__struct_config__.tag
    row = re.search(rf"^\| {tag} \| `{kind.__name__}` \|(.*)$", WIRE, re.MULTILINE)

    assert row, f"{kind.__name__} ({tag}) has no row in docs/wire.md"
    for field in kind.__struct_fields__:
        assert field == "stream" or re.search(rf"\b{field}\b", row[1]), field


def test_what_must_be_refused_is() -> None:
    refused = json.loads((DOCS / "vectors.json").read_text())["refused"]
    codec = Codec(*MESSAGES)
    for entry in refused.values():
        with pytest.raises(BadMessage):
            codec.unpack(bytes.fromhex(entry["bytes"]))


def test_every_close_code_is_in_the_specification() -> None:
    for code in Close:
        assert f"| 0x{int(code):x} | {code.word} |" in WIRE


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_command_and_option_exists(path: Path) -> None:
    for name, rest in _commands(path.read_text()):
        assert name in COMMANDS, f"{path.name}: p2pstream {name}"
        known = _options(_command(name))
        for option in OPTION.findall(rest):
            assert option in known, f"{path.name}: p2pstream {name} {option}"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        if "://" not in target and target != "docs/page.png":  # The picture comes last.
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_code_and_exit_status_is_explained() -> None:
    text = (DOCS / "OPERATING.md").read_text()
    for fault in UserError.__subclasses__():
        assert f"| {fault.exit_code} | `{fault.code}` |" in text, fault.__name__
        assert re.search(rf"\b{fault.exit_code} [a-z]", EXIT_CODES), fault.__name__


def test_every_key_of_the_configuration_is_explained_and_no_other() -> None:
    text = (DOCS / "OPERATING.md").read_text()
    documented = set(re.findall(r"^\| `([a-z]+\.[a-z-]+)` \|", text, re.MULTILINE))
    tables = {field.encode_name: field.type for field in msgspec.structs.fields(File)}

    assert documented == {
        f"{name}.{field.encode_name}"
        for name, table in tables.items()
        for field in msgspec.structs.fields(table)
    }


def test_every_module_that_the_documents_name_exists() -> None:
    for path in WRITTEN:
        for name in re.findall(r"`((?:[a-z]+/)+[a-z_]+\.py)\b", path.read_text()):
            assert any((ROOT / at / name).exists() for at in (".", "p2pstream")), (
                f"{path.name}: {name}"
            )


def test_every_method_on_the_journey_of_a_piece_exists() -> None:
    methods: set[str] = set()
    for source in (ROOT / "p2pstream").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ClassDef):
                methods |= {
                    f"{node.name}.{inner.name}"
                    for inner in node.body
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
                }
    named = re.findall(r"`([A-Z]\w+\.[a-z_]+)`", (DOCS / "ARCHITECTURE.md").read_text())

    assert len(named) > 15
    assert not set(named) - methods


@pytest.mark.parametrize(
    "words",
    [
        f"| connections of a node | {doorman.CONNECTIONS_MAX}, of which {doorman.INBOUND_MAX} ",
        f"more than {link.CONTROL_PER_S:g} control messages a second ({link.CONTROL_BURST:g} at",
        "The body has at most " + f"{link.PARCEL_BODY_BYTES_MAX:,} bytes".replace(",", " "),
        f"| time until the Hello | {link.HANDSHAKE_S:g} s |",
        f"| window | {window.HEADS_MAX} heads, {window.BYTES_MAX >> 20} MiB |",
        f"| renditions | {chunk.RENDITIONS_MAX} |",
        f"| partners | {partners.PARTNERS_MAX}; {partners.PARTNERS_WANTED} are sought |",
        f"| candidates | {partners.CANDIDATES_MAX} |",
        f"| pieces that wait for their head | {limbo.PIECES_MAX}, {limbo.PIECES_MAX_PER_PEER} of",
        f"K = {swarm.SUBSTREAMS}.",
        f"| records of one /24 (/56), over all keys | {records.SUBNET_RECORDS_MAX} |",
        f"A ban is forgotten {doorman.BAN_MEMORY_S / 3600:g} h after",
    ],
)
def test_the_limits_in_the_specification_are_those_of_the_code(words: str) -> None:
    assert words in " ".join(WIRE.split()), words


def test_the_changelog_has_the_version() -> None:
    from p2pstream import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def _commands(text: str) -> list[tuple[str, str]]:
    """(command, the rest of its line) of the command lines in code."""
    code = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    found = []
    for some in code:
        for line in some.replace("\\\n", " ").splitlines():
            if line.lstrip().startswith("#"):
                continue
            found += [(name, rest) for name, rest in COMMAND.findall(line) if _is_command(line)]
    return found


def _is_command(line: str) -> bool:
    """Not a path, a package or an id that merely contains our name."""
    return re.search(r"(?:^|[\s/|$])p2pstream +(?:--config|[a-z])", line) is not None


def _command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def _options(command: Any) -> set[str]:
    options = {"--help", "--config"}
    for parameter in command.params:
        options |= {*parameter.opts, *parameter.secondary_opts}
    for inner in getattr(command, "commands", {}).values():
        options |= _options(inner)
    return options
