"""`p2pstream bench`: what this machine can serve."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from math import isnan, nan
from pathlib import Path
from statistics import median
from time import sleep
from typing import Any, TypeVar

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from p2pstream.errors import UserError
from p2pstream.metrics import percentile

MB = 1_000_000
BULK_BYTES = 24 * MB  # In one turn: 0.2 s of the fast path on a good machine.
BULK_TURNS = 4
RELAY_BYTES = 2 * MB  # In one turn: it takes 0.1 s, or half a second of the stock one.
RELAY_TURNS = 12
RELAY_SETS = 2  # Of processes: where the memory of one happens to lie makes 5 % of its cost.
STOCK_SHARE = 3  # The stock one gets so much less to do, or it would take most of the time.
LIVE_BITS_PER_S = 6e6
LIVE_S, LIVE_TURNS = 2.0, 2
LINK_S = 8.0  # Of virtual time.
GOODPUT_BITS_PER_S = 30e6  # Half as much again as the virtual link carries.
LOSSES = (0.0, 0.005, 0.02, 0.05)
REORDER = 0.01
VIEWER_BITS_PER_S = 4e6
BUSY = 0.8  # Of a core: the rest is for the player and everything else.
PATIENCE_S = 60.0  # For one process to end.

ARRIVAL_S = 0.02  # How often to look whether all has come.

OURS = ("fast", "stock", "whole")
T = TypeVar("T")
Figures = dict[str, list[float]]
Cost = dict[str, float]  # `bytes` that came through, and the `cpu_s` they took.
Costs = tuple[Cost, Cost]  # Of sending, and of receiving.
WEATHER = [*((f"loss{loss * 100:g}", f"{loss:.1%} lost", {"loss": loss}) for loss in LOSSES),
           ("reorder", f"{REORDER:.0%} reordered", {"reorder": REORDER})]  # fmt: skip


@click.command(
    epilog="""\b
Examples:
  p2pstream bench
  p2pstream bench --rounds 5 --json
  p2pstream bench --report bench.html
"""
)
@click.option("--rounds", type=click.IntRange(1, 99), default=3, show_default=True,
              help="Each round measures everything once; the median counts.")  # fmt: skip
@click.option("--report", type=click.Path(dir_okay=False, writable=True, path_type=Path),
              help="Write a page with figures, one HTML file.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(rounds: int, report: Path | None, as_json: bool) -> None:
    """Measure what this machine can serve.

    Sends real datagrams over the loopback, as long as those of the internet, between processes of
    their own: with our fast path, and beside it with aioquic as it is and the same driver, with qh3
    and with libtorrent where they are installed. Then a home's uplink that loses and reorders, in
    virtual time. Takes about two minutes a round.
    """
    figures: Figures = defaultdict(list)
    console = Console(stderr=True, highlight=False)
    with Progress(
        console=console, transient=True, disable=as_json or not console.is_terminal
    ) as bar:
        task = bar.add_task("measuring", total=rounds * len(STEPS))
        for _ in range(rounds):
            for name, step in STEPS.items():
                bar.update(task, description=name)
                step(figures)
                bar.advance(task)
    result = summary(figures)
    if report is not None:
        from p2pstream.bench import page  # noqa: PLC0415  # `--help` needs none of it.

        report.write_text(page.page(result, verdict(result), rows(result), rounds))
    if as_json:
        click.echo(json.dumps(result))
    else:
        Console(highlight=False).print(table(result))
        click.echo(verdict(result))


def summary(figures: Figures) -> dict[str, Any]:
    """The figures that people compare, and below them what they are made of. None: not measured.

    What is compared was measured side by side: the ratio of each round is taken, then the median
    of the rounds. So a machine that is faster in one round than in the next favours nobody.
    """
    found = {name: [v for v in values if not isnan(v)] for name, values in figures.items()}
    medians = {name: median(values) for name, values in found.items() if values}

    def ratio(one: str, other: str) -> float | None:
        pairs = zip(figures.get(one, ()), figures.get(other, ()), strict=False)
        ratios = [mine / theirs for mine, theirs in pairs if theirs]
        ratios = [ratio for ratio in ratios if not isnan(ratio)]
        return median(ratios) if ratios else None

    return {
        "bulk_send_vs_stock": ratio("bulk_send_fast", "bulk_send_stock"),
        "bulk_recv_vs_stock": ratio("bulk_recv_fast", "bulk_recv_stock"),
        "bulk_send_vs_qh3": ratio("bulk_send_fast", "bulk_send_qh3"),
        "bulk_recv_vs_qh3": ratio("bulk_recv_fast", "bulk_recv_qh3"),
        "relay3_vs_stock": ratio("relay3_fast", "relay3_stock"),
        "full_stack_share": ratio("relay3_whole", "relay3_fast"),
        "live3_cpu_vs_stock": ratio("live3_cpu_fast", "live3_cpu_stock"),
        "live8_cpu_vs_stock": ratio("live8_cpu_fast", "live8_cpu_stock"),
        "live8_cpu": medians["live8_cpu_fast"],
        "live8_full_stack_share": ratio("live8_cpu_fast", "live8_cpu_whole"),
        "loss2_piece_delay_s_p99": medians["delay_p99_fast_loss2"],
        "loss2_goodput_vs_stock": ratio("goodput_fast_loss2", "goodput_stock_loss2"),
        "fair_share_ours": medians["fair_fast"],
        "fair_share_reno": medians["fair_stock"],
        "viewers_at_4_mbit": int(
            BUSY / medians["live8_cpu_whole"] * 8 * LIVE_BITS_PER_S / VIEWER_BITS_PER_S
        ),
        "vs_stock": {
            name: ratio(name, name.replace("fast", "stock")) for name in medians if "fast" in name
        },
        "medians": dict(sorted(medians.items())),
    }


COLUMNS = {"fast": "ours", "stock": "stock aioquic", "whole": "whole node", "qh3": "qh3",
           "torrent": "uTP"}  # fmt: skip


def rows(result: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """What was measured, and by column of `COLUMNS` what was found."""
    medians = result["medians"]
    out = []

    def row(name: str, key: str, form: Callable[[float], str]) -> None:
        keys = {column: key.format(column) for column in COLUMNS}
        found = {column: form(medians[k]) for column, k in keys.items() if k in medians}
        if (ratio := result["vs_stock"].get(keys["fast"])) is not None:
            found["ratio"] = f"{ratio:.2f}"
        out.append((name, found))

    row("send, MB per CPU second", "bulk_send_{}", "{:.0f}".format)
    row("receive, MB per CPU second", "bulk_recv_{}", "{:.0f}".format)
    row("pass on to 3, MB per CPU second", "relay3_{}", "{:.1f}".format)
    row("pass on 6 Mbit/s to 3, of a core", "live3_cpu_{}", "{:.1%}".format)
    row("pass on 6 Mbit/s to 8, of a core", "live8_cpu_{}", "{:.1%}".format)
    for name, words, _ in WEATHER:
        row(f"piece delay p50, {words}", f"delay_p50_{{}}_{name}", _ms)
        row(f"piece delay p99, {words}", f"delay_p99_{{}}_{name}", _ms)
    row("goodput at 2 % lost, Mbit/s", "goodput_{}_loss2", lambda v: f"{v * 8 / MB:.1f}")
    row("share of a bottleneck, 1 is fair", "fair_{}", "{:.2f}".format)
    return out


def table(result: dict[str, Any]) -> Table:
    """For people."""
    lines = rows(result)
    shown = [key for key in COLUMNS if any(key in found for _, found in lines)]
    # Without frames, so that it fits into 80 columns.
    out = Table(
        title="what this machine can serve",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    out.add_column("", no_wrap=True)
    for title in [*(COLUMNS[key] for key in shown), "ours / stock"]:
        out.add_column(title, justify="right")
    for name, found in lines:
        out.add_row(name, *(found.get(key, "") for key in [*shown, "ratio"]))
    return out


def verdict(result: dict[str, Any]) -> str:
    """One line to remember."""
    return f"This machine can feed about {result['viewers_at_4_mbit']} viewers at 4 Mbit/s."


# The steps of a round. Each measures ours and the others, one right after the other.


def bulk(figures: Figures) -> None:
    """Megabytes per CPU second, as fast as it goes.

    Other people's transports have an empty column where they are not here or fail.
    """
    from p2pstream.bench.others import installed  # noqa: PLC0415  # Not on the way of `--help`.

    ways: dict[str, AbstractContextManager[Callable[[], Costs]]] = {
        "fast": one_link(engine="fast", bytes=BULK_BYTES),
    }
    if installed("qh3"):  # A fork of aioquic with its packets in Rust; its turn is next to ours.
        ways["qh3"] = one_link("qh3_", bytes=BULK_BYTES)
    ways["stock"] = one_link(engine="stock", bytes=BULK_BYTES // STOCK_SHARE)
    if installed("libtorrent"):  # uTP with encryption.
        ways["torrent"] = torrent(bytes=BULK_BYTES)
    with ExitStack() as stack:
        links: dict[str, Callable[[], Costs]] = {}
        for name, way in ways.items():
            try:
                links[name] = stack.enter_context(way)
            except UserError:
                if name in OURS:
                    raise
        costs = in_turns(links, BULK_TURNS)
    for name in ways:
        # Who failed this time has a figure too: those of one round stand at one place.
        sent, received = zip(*costs[name], strict=True) if name in costs else ((), ())
        figures[f"bulk_send_{name}"].append(_speed(_sum(sent)))
        figures[f"bulk_recv_{name}"].append(_speed(_sum(received)))


@contextmanager
def one_link(kind: str = "", **setup: Any) -> Iterator[Callable[[], Costs]]:
    """Two ends. Call it to send `bytes` once more: it returns what sending and receiving cost.
    Raises `UserError`.
    """
    with process(f"{kind}receive", **setup) as sink:
        peer = sink.hear()["peer"]
        with process(f"{kind}send", peer=peer, **setup) as source:
            source.hear()

            def pass_on() -> Costs:
                before, sent = sink.ask(), source.ask()
                return sent, _arrival(sink, before, sent["bytes"])

            yield pass_on


def _arrival(sink: Worker, before: Cost, size: int) -> Cost:
    """What it has cost to receive so many bytes, the last of which may still be under way."""
    for _ in range(round(PATIENCE_S / ARRIVAL_S)):
        sleep(ARRIVAL_S)
        cost = _difference(sink.ask(), before)
        if cost["bytes"] >= size:
            return cost
    raise UserError("what was sent did not arrive", hint="Is this machine very busy?")


@contextmanager
def torrent(**setup: Any) -> Iterator[Callable[[], Costs]]:
    """The same of libtorrent, where the sender listens. Raises `UserError`."""
    with process("torrent_send", **setup) as source:
        peer = source.hear()["peer"]
        with process("torrent_receive", peer=peer, **setup) as sink:
            sink.hear()

            def pass_on() -> Costs:
                before, received, after = source.ask(), sink.ask(), source.ask()
                return {**_difference(after, before), "bytes": received["bytes"]}, received

            yield pass_on


def relay3(figures: Figures) -> None:
    """Megabytes in per CPU second of a relay that feeds three, as fast as it goes."""
    share = {"fast": 1, "stock": STOCK_SHARE, "whole": 1}
    costs: dict[str, list[Cost]] = defaultdict(list)
    for _ in range(RELAY_SETS):
        with ExitStack() as stack:
            relays = {
                name: stack.enter_context(relay(3, name, bytes=RELAY_BYTES // share[name]))
                for name in share
            }
            for name, cost in in_turns(relays, RELAY_TURNS).items():
                costs[name] += cost
    for name, turns in costs.items():
        figures[f"relay3_{name}"].append(_speed(_sum(turns)))


def live(figures: Figures) -> None:
    """The share of a core that passing on at the rate of a stream takes."""
    rate = {"bits_per_s": LIVE_BITS_PER_S, "seconds": LIVE_S}
    for count in (3, 8):
        with ExitStack() as stack:
            relays = {
                name: stack.enter_context(relay(count, name, **rate))
                for name in ("fast", "stock", "whole")
            }
            for name, costs in in_turns(relays, LIVE_TURNS).items():
                cost = _sum(costs)
                # By what came through, not by the clock: who falls behind must not look cheap.
                media_s = cost["bytes"] * 8 / LIVE_BITS_PER_S
                figures[f"live{count}_cpu_{name}"].append(cost["cpu_s"] / media_s)


def in_turns(ways: Mapping[str, Callable[[], T]], turns: int) -> dict[str, list[T]]:
    """What each costs, in so many turns.

    They take turns, there and back: a machine that others use too slows down and speeds up again
    within seconds. The first turn opens windows and fills stores, and does not count. Who fails
    that is not ours has no turns any more, and counts for nothing.
    """
    costs: dict[str, list[T]] = {name: [] for name in ways}
    for turn in range(1 + turns):
        for name in list(costs) if turn % 2 else list(reversed(costs)):
            try:
                costs[name].append(ways[name]())
            except UserError:
                if name in OURS:
                    raise
                del costs[name]
    return {name: cost[1:] for name, cost in costs.items()}


@contextmanager
def relay(count: int, kind: str, **rate: float) -> Iterator[Callable[[], Cost]]:
    """A relay to `count` peers. Call it to let something through, as often as you like: it returns
    what that cost. kind: an engine alone, or "whole". `bytes`: those that all of them got. Raises
    `UserError`.
    """
    whole = kind == "whole"
    with process("relay", engine="fast" if whole else kind, whole=whole) as middle:
        peer = middle.hear()["peer"]
        with process("around", peer=peer, sinks=count, whole=whole, **rate) as ends:
            ends.hear()

            def pass_on() -> Cost:
                before, came, after = middle.ask(), ends.ask(), middle.ask()
                if not came["bytes"]:
                    hint = "Is this machine very busy?"
                    raise UserError("nothing came through the relay", hint=hint)
                return {"bytes": came["bytes"], "cpu_s": after["cpu_s"] - before["cpu_s"]}

            yield pass_on


def link(figures: Figures) -> None:
    """Piece delays and goodput on a home's uplink, in virtual time."""
    from p2pstream.bench import path  # noqa: PLC0415  # Not on the way of `--help`.

    seed = len(figures["goodput_fast_loss2"]) + 1
    for ours, name in ((True, "fast"), (False, "stock")):
        for weather, _, settings in WEATHER:
            way = path.live(ours, bits_per_s=LIVE_BITS_PER_S, seconds=LINK_S, seed=seed, **settings)
            figures[f"delay_p50_{name}_{weather}"].append(percentile(way.delays_s, 0.5))
            figures[f"delay_p99_{name}_{weather}"].append(percentile(way.delays_s, 0.99))
        way = path.live(ours, bits_per_s=GOODPUT_BITS_PER_S, seconds=LINK_S, seed=seed, loss=0.02)
        figures[f"goodput_{name}_loss2"].append(way.bytes_per_s)


def fairness(figures: Figures) -> None:
    """What we and a reno flow get of a bottleneck that we share; 1 is half of it."""
    from p2pstream.bench import path  # noqa: PLC0415  # Not on the way of `--help`.

    seed = len(figures["fair_fast"]) + 1
    for name, share in zip(("fast", "stock"), path.shares(seconds=LINK_S, seed=seed), strict=True):
        figures[f"fair_{name}"].append(share)


STEPS: dict[str, Callable[[Figures], None]] = {
    "bulk": bulk,
    "relay to 3": relay3,
    "live": live,
    "home link": link,
    "fairness": fairness,
}


class Worker:
    """A process of `p2pstream.bench.processes`. It ends when its standard input does."""

    def __init__(self, role: str, setup: dict[str, Any]) -> None:
        self.role = role
        self.process = subprocess.Popen(  # noqa: S603  # Ourselves.
            [sys.executable, "-m", "p2pstream.bench.processes", role, json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> dict[str, Any]:
        """Its answer to one more line."""
        self.tell()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Its next line. Raises `UserError` when it ends without."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UserError(
                f"the measuring process ({self.role}) ended early",
                hint="What it said is above. On a very busy machine try again later.",
            )
        said: dict[str, Any] = json.loads(line)
        return said

    def tell(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # It has ended: `hear` says so.
            self.process.stdin.write("\n")
            self.process.stdin.flush()


@contextmanager
def process(role: str, **setup: Any) -> Iterator[Worker]:
    """A worker that is gone afterwards, whatever happens."""
    worker = Worker(role, setup)
    with worker.process:  # Closes its pipes.
        try:
            yield worker
            assert worker.process.stdin is not None
            with suppress(BrokenPipeError):
                worker.process.stdin.close()
            worker.process.wait(PATIENCE_S)
        finally:
            worker.process.kill()


def _difference(after: Cost, before: Cost) -> Cost:
    return {key: after[key] - before[key] for key in ("bytes", "cpu_s")}


def _sum(costs: Iterable[Cost]) -> Cost:
    costs = list(costs)
    return {key: sum(cost[key] for cost in costs) for key in ("bytes", "cpu_s")}


def _speed(cost: Cost) -> float:
    """nan: it failed."""
    return cost["bytes"] / MB / cost["cpu_s"] if cost["cpu_s"] else nan


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
