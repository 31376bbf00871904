"""What a person can do wrong: one clear message, an exit code of its own, nothing half-written."""

from __future__ import annotations

import json
import resource
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2pstream import __version__
from p2pstream.access import Seed, Ticket
from p2pstream.cli.common import parse_seed
from p2pstream.identity import NodeKey, StreamKey
from tests.e2e.stage import (
    ROOT,
    Actor,
    Stage,
    environment,
    free_port,
    now,
    stage,
    ticket_of,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

COMMANDS = ["broadcast", "watch", "seed", "demo", "ticket show", "status"]


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> dict[str, str]:
        """The error of `--json`: the last line, the only one of its kind, with three words."""
        lines = [json.loads(line) for line in self.out.splitlines()]
        errors = [line["error"] for line in lines if "error" in line]
        assert len(errors) == 1, self
        assert lines[-1] == {"error": errors[0]}
        assert set(errors[0]) == {"code", "message", "hint"}
        assert "Traceback" not in self.out + self.err
        found: dict[str, str] = errors[0]
        return found


class Shell:
    """Types commands, as somebody whose XDG folders are below `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for part in ("state", "config", "run"):
            (home / part).mkdir(mode=0o700, exist_ok=True)

    def __call__(self, *command: str, **extra: str) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "p2pstream", *command],
            cwd=ROOT, env=environment(self.home) | extra, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return Answer(done.returncode, done.stdout, done.stderr)

    def each(self, *commands: Sequence[str]) -> list[Answer]:
        """As many at once as a small machine bears."""
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(lambda command: self(*command), commands))

    def files(self) -> list[str]:
        """What is lying about, but for locks and what is meant to stay."""
        found = [p.relative_to(self.home) for p in self.home.rglob("*") if p.is_file()]
        return sorted(str(p) for p in found if p.suffix not in {".lock", ".pem"})


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@dataclass(frozen=True)
class Network:
    """A seed and a broadcast; and two viewers who look in vain, for the 20 s that one may look."""

    stage: Stage
    seed: Actor
    origin: Actor
    alone: Actor
    lost: Actor
    began: float

    @property
    def ticket(self) -> str:
        return ticket_of(self.origin)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with stage() as made:
        seed = made.seed()
        way = seed.last("running")["seed"]
        origin = made.broadcast("testsrc", "--ladder", "240p:300k", "--seed", way)
        began = now()
        alone = made.watch("alone", made_up_ticket(nobody(free_port())))
        lost = made.watch("lost", made_up_ticket(parse_seed(way)))
        yield Network(made, seed, origin, alone, lost, began)


def expect(answer: Answer, status: int, code: str, *words: str) -> None:
    """The error, as `--json` says it."""
    assert answer.status == status, answer
    assert answer.error["code"] == code
    assert answer.err == ""
    for word in words:
        assert word in answer.error["message"] + answer.error["hint"], answer.error
    assert answer.error["message"].count("\n") == 0


def made_up_ticket(*seeds: Seed) -> str:
    """Of a stream that nobody has."""
    return str(Ticket(StreamKey(bytes(range(32))).stream_id, seeds))


def nobody(port: int) -> Seed:
    return Seed(NodeKey(bytes(range(1, 33))).node_id, ("127.0.0.1", port))


# Input.


def make_media(tool: Callable[[str], str], path: Path, *options: str) -> Path:
    subprocess.run([tool("ffmpeg"), "-v", "error", *options, str(path)], check=True, timeout=60)
    return path


def test_the_input_is_not_there(shell: Shell) -> None:
    said = shell("broadcast", "no-such-talk.mp4", "--port", "0", "--json")
    expect(said, 12, "input_not_found", "no-such-talk.mp4")


def test_the_input_has_no_picture(shell: Shell, tmp_path: Path, tool: Callable[[str], str]) -> None:
    song = make_media(tool, tmp_path / "song.m4a", "-f", "lavfi", "-i", "sine=duration=2")
    said = shell("broadcast", str(song), "--port", "0", "--json")
    expect(said, 13, "no_video")


def test_the_input_is_garbage(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_bytes(bytes(range(256)) * 400)
    said = shell("broadcast", str(tmp_path / "notes.mp4"), "--port", "0", "--json")
    assert said.status in {12, 14}, said
    expect(said, said.status, said.error["code"], "notes.mp4")


def test_the_codec_is_not_known(shell: Shell, tmp_path: Path, tool: Callable[[str], str]) -> None:
    film = make_media(
        tool, tmp_path / "odd.mp4", "-f", "lavfi", "-i", "testsrc=duration=2:size=64x64",
        "-c:v", "libx264",
    )  # fmt: skip
    # A codec that nobody has: the name of it in the sample entry is one we made up.
    film.write_bytes(film.read_bytes().replace(b"avc1\0\0\0\0", b"zzz9\0\0\0\0"))
    said = shell("broadcast", str(film), "--port", "0", "--json")
    expect(said, 14, "unsupported_codec")


# Tickets and the network.


def test_a_ticket_with_a_typo(shell: Shell) -> None:
    ticket = made_up_ticket(nobody(7441))
    wrong = ticket[:40] + ("a" if ticket[40] != "a" else "b") + ticket[41:]
    expect(shell("watch", wrong, "--json"), 8, "bad_ticket", "typo")
    expect(shell("watch", ticket[:-3], "--json"), 8, "bad_ticket")
    expect(shell("ticket", "show", "https://example.org/", "--json"), 8, "bad_ticket")
    assert shell.files() == []


# Ports, keys, disks.


def test_the_port_is_taken(shell: Shell, network: Network) -> None:
    ticket = network.ticket
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        commands = (["seed"], ["broadcast", "testsrc"], ["watch", ticket, "--no-page"])
        where = ["--host", "127.0.0.1", "--port", port, "--json"]
        for said in shell.each(*([*command, *where] for command in commands)):
            expect(said, 9, "port_in_use", port)
    with socket.create_server(("127.0.0.1", 0)) as web:
        port = str(web.getsockname()[1])
        said = shell("watch", ticket, "--player", "none", "--http-port", port, "--json")
        expect(said, 9, "port_in_use", port)


def test_the_address_is_not_ours(shell: Shell, network: Network) -> None:
    commands = (["seed"], ["broadcast", "testsrc"], ["watch", network.ticket, "--no-page"])
    where = ["--host", "192.0.2.1", "--port", "0", "--json"]
    for said in shell.each(*([*command, *where] for command in commands)):
        expect(said, 6, "bad_config", "192.0.2.1")


def test_two_nodes_with_one_key(network: Network) -> None:
    for actor, command in (
        (network.seed, ["seed"]),
        (network.origin, ["broadcast", "testsrc"]),
    ):
        said = Shell(actor.home)(*command, "--host", "127.0.0.1", "--port", "0", "--json")
        expect(said, 10, "key_in_use")
    # With another name it is another stream.
    other = network.stage.broadcast("testsrc", "--ladder", "240p:300k", "--name", "second")
    assert other.last("ticket")["stream"] != network.origin.last("ticket")["stream"]
    assert other.stop() == 130


def test_the_disk_is_full(network: Network) -> None:
    """The recording ends with a word; the viewer goes on."""
    viewer = network.stage.watch("full", network.ticket, "-o", "/dev/full")
    stopped = viewer.wait_for("recording_stopped")
    assert "/dev/full" in stopped["message"]
    assert "room" in stopped["message"]
    played = viewer.next_stats()["playout"]["played"]
    assert viewer.next_stats()["playout"]["played"] > played
    assert viewer.stop() == 130
    assert viewer.noise == []


def test_the_recording_cannot_be_opened(shell: Shell, network: Network, tmp_path: Path) -> None:
    ticket = network.ticket
    said = shell("watch", ticket, "--no-page", "-o", str(tmp_path / "no" / "talk.mp4"), "--json")
    expect(said, 11, "disk_full", "talk.mp4")
    assert shell.files() == []


def test_the_state_folder_cannot_be_written(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    for command, folder in (["seed"], tmp_path / "file"), (["broadcast", "testsrc"], "/proc/none"):
        said = shell(
            *command, "--host", "127.0.0.1", "--port", "0", "--json", XDG_STATE_HOME=str(folder)
        )
        expect(said, 11, "disk_full", "XDG_STATE_HOME")
    assert shell.files() == ["file"]


def test_a_key_file_is_damaged(shell: Shell) -> None:
    folder = shell.home / "state" / "p2pstream" / "keys"
    folder.mkdir(parents=True)
    key = folder / "seed.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    key.chmod(0o600)
    command = ("seed", "--host", "127.0.0.1", "--port", "0", "--json")
    expect(shell(*command), 16, "bad_key", "seed.pem")
    key.chmod(0o644)
    expect(shell(*command), 16, "bad_key", "chmod 600")


# Settings.


def test_the_configuration_is_not_understood(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "seed.toml"
    seed = ("--config", str(config), "seed", "--json")
    expect(shell(*seed), 6, "bad_config", "seed.toml", "No such file")
    expect(shell("--config", str(tmp_path), *seed[2:]), 6, "bad_config", "directory")
    for text, words in (
        ("[seed\n", ["seed.toml", "TOML"]),
        ("[seed]\nprot = 7441\n", ["seed.prot", "port"]),
        ("[sead]\n", ["sead", "seed"]),
        ('[seed]\nport = "many"\n', ["seed.toml"]),
    ):
        config.write_text(text)
        expect(shell(*seed), 6, "bad_config", *words)


def test_the_player_is_not_installed(shell: Shell, network: Network, tmp_path: Path) -> None:
    said = shell("watch", network.ticket, "--player", "mpv", "--json", PATH=str(tmp_path))
    expect(said, 7, "missing_helper", "mpv")


def test_words_that_make_no_sense(shell: Shell) -> None:
    expect(shell("broadcast", "testsrc", "--seed", "nonsense", "--json"), 8, "bad_ticket", "<id>@")
    commands = [
        ["watch", "--json"],
        ["demo", "--viewers", "0", "--json"],
        ["broadcast", "testsrc", "--name", "../x", "--json"],
        ["seed", "--advertise", "example.org", "--json"],
        ["broadcast", "testsrc", "--advertise", "example.org", "--json"],
        ["seed", "--port", "70000", "--json"],
        ["no-such-command", "--json"],
    ]
    for said in shell.each(*commands):
        expect(said, 2, "usage")
    assert shell.files() == []


def test_status_tells_who_runs(shell: Shell, network: Network) -> None:
    expect(shell("status", "--json"), 17, "not_running")
    for actor, command in ((network.seed, "seed"), (network.origin, "broadcast")):
        said = Shell(actor.home)("status", "--json")
        (node,) = json.loads(said.out)["nodes"]
        assert (node["command"], node["pid"]) == (command, actor.pid)
        assert command in Shell(actor.home)("status").out


# What people see, without --json.


def test_no_words_at_all_are_answered_with_the_help(shell: Shell) -> None:
    said = shell()
    assert (said.status, said.err) == (2, "")
    assert said.out == shell("--help").out


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["broadcast", "no-such-talk.mp4", "--port", "0"], 12),
        (["watch", "p2pstream://abc"], 8),
        (["status"], 17),
        (["watch"], 2),
        (["--config", "/no/such/file", "seed"], 6),
    ],
)
def test_people_get_one_message_on_stderr(shell: Shell, command: list[str], status: int) -> None:
    said = shell(*command)
    assert said.status == status
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("error:") == 1
    assert len(said.err.splitlines()) <= 4
    assert "Traceback" not in said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(shell: Shell, command: str) -> None:
    said = shell(*command.split(), "--help")
    assert (said.status, said.err) == (0, "")
    assert "Examples:" in said.out
    assert f"p2pstream {command}" in said.out.split("Examples:")[1]


def test_the_first_help_lists_every_command_and_exit_code(shell: Shell) -> None:
    said = shell("--help")
    assert said.status == 0
    for command in COMMANDS:
        assert f"  {command.split()[0]} " in said.out
    for code in range(18):
        assert f" {code} " in said.out.split("Exit codes:")[1]


def test_the_version_costs_little_more_than_importing_click() -> None:
    def cost_s(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.run([sys.executable, *command], capture_output=True, check=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert not said.stdout or __version__ in said.stdout.decode()
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    version, click = ("-m", "p2pstream", "--version"), ("-c", "import click")
    pairs = [(cost_s(*version), cost_s(*click)) for _ in range(5)]
    print(f"--version: {[round(v, 3) for v, _ in pairs]}, click: {[round(c, 3) for _, c in pairs]}")
    assert statistics.median(v / c for v, c in pairs) < 1.6


# Last: by now they have looked for long enough.


@pytest.mark.parametrize(("name", "status"), [("alone", 5), ("lost", 3)])
def test_nobody_answers_or_nobody_has_the_stream(network: Network, name: str, status: int) -> None:
    viewer: Actor = getattr(network, name)
    assert viewer.wait() == status, viewer.words()
    last = viewer.lines[-1]
    assert last.said["error"]["code"] == {5: "no_peers", 3: "stream_not_found"}[status]
    assert last.said["error"]["message"]
    assert last.said["error"]["hint"]
    assert viewer.noise == []
    assert 19 < last.at - network.began < 30
    assert list(viewer.home.rglob("*.sock")) == []
