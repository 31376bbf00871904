"""What is needed to run a seed for others is right as far as it can be told without running it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import pytest

from p2pstream.cli import cli
from p2pstream.cli.common import parse_seed
from p2pstream.cli.seed import PORT
from p2pstream.config import Seed, defaults

ROOT = Path(__file__).parents[1]
BOOTSTRAP = ROOT / "bootstrap"
TOML = BOOTSTRAP / "seed.toml"
UNIT = BOOTSTRAP / "systemd" / "p2pstream-seed.service"
DOCKERFILE = (BOOTSTRAP / "Dockerfile").read_text()
COMPOSE = (BOOTSTRAP / "compose.yaml").read_text()


def test_the_configuration_loads() -> None:
    assert defaults(str(TOML), "seed")["port"] == PORT


def test_the_configuration_shows_every_key_and_its_comments_are_valid_too(tmp_path: Path) -> None:
    """Taking a `# key = value` line for real must give a file that loads."""
    text = re.sub(r"^# ([a-z]+ = .*)$", r"\1", TOML.read_text(), flags=re.MULTILINE)
    (tmp_path / "seed.toml").write_text(text)

    shown = set(tomllib.loads(text)["seed"])
    assert shown == {field.encode_name for field in msgspec.structs.fields(Seed)}
    for seed in defaults(str(tmp_path / "seed.toml"), "seed")["bootstrap"]:
        parse_seed(seed)


def test_the_command_of_the_unit_and_of_the_image_is_accepted() -> None:
    (start,) = re.findall(r"^ExecStart=\S+ (.*)$", UNIT.read_text(), re.MULTILINE)
    (entry,) = re.findall(r'^ENTRYPOINT \["p2pstream", (.*)\]$', DOCKERFILE, re.MULTILINE)
    (cmd,) = re.findall(r"^CMD \[(.*)\]$", DOCKERFILE, re.MULTILINE)
    for words in (start.split(), re.findall(r'"([^"]+)"', f"{entry} {cmd}")):
        _parses([str(TOML) if word.endswith(".toml") else word for word in words])


def test_systemd_accepts_the_unit(tmp_path: Path, tool: Callable[[str], str]) -> None:
    analyze = tool("systemd-analyze")
    unit = tmp_path / UNIT.name
    # The program need not be installed where this runs.
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))

    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)

    ours = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line]
    assert not ours
    assert done.returncode == 0, done.stderr


def test_the_unit_is_caged() -> None:
    text = UNIT.read_text()
    for line in (
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "CapabilityBoundingSet=",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        "StateDirectory=p2pstream",
    ):
        assert f"\n{line}\n" in text


def test_all_that_the_image_copies_exists() -> None:
    copies = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    ours = [paths for paths in copies if not paths[0].startswith("--from=")]

    assert ours
    for path in (path for paths in ours for path in paths):
        assert (ROOT / path).exists(), path


def test_the_image_runs_as_nobody_and_from_wheels_only() -> None:
    assert "FROM python:3.12-slim" in DOCKERFILE
    assert re.search(r"^USER (?!root)", DOCKERFILE, re.MULTILINE)
    assert "--only-binary :all:" in DOCKERFILE
    assert f"EXPOSE {PORT}/udp" in DOCKERFILE
    (volume,) = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"XDG_STATE_HOME={volume}" in DOCKERFILE
    assert f":{volume}" in COMPOSE


def test_compose_names_what_exists() -> None:
    assert "\t" not in COMPOSE
    (context,) = re.findall(r"context: (\S+)", COMPOSE)
    (dockerfile,) = re.findall(r"dockerfile: (\S+)", COMPOSE)
    assert (BOOTSTRAP / context / dockerfile).resolve() == BOOTSTRAP / "Dockerfile"
    assert f"{PORT}:{PORT}/udp" in COMPOSE
    for path in re.findall(r"- (\./[^:]+):", COMPOSE):
        assert (BOOTSTRAP / path).exists(), path


def test_compose_is_yaml() -> None:
    yaml = pytest.importorskip("yaml", reason="not here: PyYAML, which nothing of ours needs")

    assert set(yaml.safe_load(COMPOSE)["services"]) == {"seed"}


def _parses(words: list[str]) -> None:
    """Raises `click.UsageError` for a command line that we would refuse. Runs nothing."""
    context = cli.make_context("p2pstream", list(words), resilient_parsing=False)
    name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
    assert name == "seed"
    assert command is not None
    with click.Context(cli):
        command.make_context(name, rest, parent=context)
