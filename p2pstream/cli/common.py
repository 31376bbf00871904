"""What the commands share: options, talking to people and to programs, running and stopping."""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from ipaddress import ip_address
from typing import Any, TypeVar

import click
import trio
from rich.console import Console
from rich.live import Live
from rich.markup import escape

from p2pstream.access import Seed, unbase32
from p2pstream.core import Note
from p2pstream.errors import BadTicket, UserError
from p2pstream.identity import Address, NodeId
from p2pstream.node.garbage import collect_seldom

F = TypeVar("F", bound=Callable[..., Any])

STATS_S = 1.0  # How often live figures are refreshed.


def network_options(command: F) -> F:
    """Where the node listens, and how it behaves there."""
    for option in (
        click.option("--yield", "yields", is_flag=True,
                     help="Give way to everything else on your line."),
        click.option(
            "--advertise", metavar="IP:PORT", help="Where others reach us, if we cannot see it."
        ),
        click.option("--port", type=click.IntRange(0, 65535), help="UDP port (0: any)."),
        click.option("--host", default="0.0.0.0", show_default=True, metavar="IP",  # noqa: S104
                     help="Address to listen on."),
    ):  # fmt: skip
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="JSON Lines on standard output.")


class Talk:
    """To people on stderr, to programs (`--json`) as JSON Lines on stdout."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(stderr=True, highlight=False)

    def event(self, event: str, **fields: Any) -> None:
        """One JSON line. Says nothing to people: use `say` for them."""
        if self.as_json:
            try:
                sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                # Whoever read us is gone; end like any program in a broken pipe.
                signal.raise_signal(signal.SIGTERM)

    def say(self, text: str) -> None:
        if not self.as_json:
            self.console.print(text, soft_wrap=True)  # Commands and URLs are copied whole.

    def picture(self) -> AbstractContextManager[Live | None]:
        """A place on the terminal for live figures; nothing where there is no terminal."""
        if self.as_json or not self.console.is_terminal:
            return nullcontext()
        return Live(console=self.console, transient=True, auto_refresh=False)

    def note(self, note: Note) -> None:
        """Something a core or a worker wants known."""
        self.event(note.event, **note.fields)
        words = escape(" ".join(f"{key}={value}" for key, value in note.fields.items()))
        self.say(f"[dim]{note.event.replace('_', ' ')}[/] {words}")


def run(main: Callable[[trio.CancelScope], Awaitable[None]]) -> None:
    """Run a command until it ends or is told to stop; exit codes 130 and 143 then.

    The first SIGINT or SIGTERM cancels the scope that `main` is given, in which it does its work;
    after that it takes its leave. A second one ends it at once.
    """
    stopped: list[int] = []
    collect_seldom()

    async def watched() -> None:
        async with trio.open_nursery() as nursery:
            work = trio.CancelScope()
            nursery.start_soon(_wait_signals, (work, nursery.cancel_scope), stopped)
            await main(work)
            nursery.cancel_scope.cancel()

    try:
        trio.run(watched)
    except KeyboardInterrupt:
        stopped.append(signal.SIGINT)
    except BaseExceptionGroup as group:
        if not group.subgroup(KeyboardInterrupt):
            raise _first(group) from None
        stopped.append(signal.SIGINT)
    if stopped:
        sys.exit(128 + stopped[0])


async def _wait_signals(scopes: Iterable[trio.CancelScope], stopped: list[int]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        for scope in scopes:
            stopped.append(await anext(signals))
            scope.cancel()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a person can mend, if it is among the errors; else everything."""
    ours, _ = group.split(UserError)
    while isinstance(ours, BaseExceptionGroup):
        error = ours.exceptions[0]
        if not isinstance(error, BaseExceptionGroup):
            return error
        ours = error
    return group


def counted(number: int, noun: str) -> str:
    """`1 viewer`, `2 viewers`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def parse_seed(text: str) -> Seed:
    """`<id in base32>@<ip>:<port>`, as `p2pstream seed` prints it. Raises `BadTicket`."""
    with suppress(ValueError, AssertionError):
        name, _, where = text.partition("@")
        return Seed(NodeId(unbase32(name)), parse_address(where))
    raise BadTicket(
        f"not a seed: {text!r}",
        hint="A seed is written <id>@<ip>:<port>, just as `p2pstream seed` prints it.",
    )


def parse_address(text: str) -> Address:
    """`ip:port` or `[ip6]:port`. Raises `ValueError`."""
    host, _, port = text.rpartition(":")
    address = str(ip_address(host.strip("[]"))), int(port)
    if not 0 < address[1] < 2**16:
        raise ValueError(f"no such port: {port}")
    return address


def show_address(address: Address) -> str:
    """The opposite of `parse_address`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def advertised(text: str | None) -> Address | None:
    """What `--advertise` says. Raises `click.BadParameter`."""
    if text is None:
        return None
    try:
        return parse_address(text)
    except ValueError:
        raise click.BadParameter("it is written IP:PORT, say 203.0.113.7:7440") from None


def free_port(host: str, wanted: int) -> int:
    """`wanted` if nobody has it, or else any."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.bind((host, wanted))
        except OSError:
            return 0
    return wanted


def cpu_s() -> float:
    """Seconds of processor time that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def size(count: float) -> str:
    """`count` bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
