"""`p2pstream bench`: what this machine can serve."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from p2pstream.errors import UserError
from p2pstream.metrics import percentile

MB = 1_000_000
BULK_BYTES = 24 * MB  # 0.2 s of the fast path and 1 s of the stock one.
RELAY_BITS_PER_S = 24e6  # facts/quic.md 9: as fast as the stock one keeps up with three peers.
LIVE_BITS_PER_S = 6e6
LIVE_S = 4.0
LINK_S = 8.0  # Of virtual time.
GOODPUT_BITS_PER_S = 30e6  # Half as much again as the virtual link carries.
LOSSES = (0.0, 0.005, 0.02, 0.05)
REORDER = 0.01
VIEWER_BITS_PER_S = 4e6
BUSY = 0.8  # Of a core: the rest is for the player and everything else.
PATIENCE_S = 60.0  # For one process to end.

Figures = dict[str, list[float]]


@click.command(
    epilog="""\b
Examples:
  p2pstream bench
  p2pstream bench --rounds 5 --json
"""
)
@click.option("--rounds", type=click.IntRange(1, 99), default=3, show_default=True,
              help="Each round measures everything once; the median counts.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(rounds: int, as_json: bool) -> None:
    """Measure what this machine can serve.

    Sends real datagrams over the loopback, as long as those of the internet, between processes of
    their own: with our fast path, and beside it with aioquic as it is and the same driver. Then a
    home's uplink that loses and reorders, in virtual time. Takes about a minute a round.
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
    result = summary({name: median(values) for name, values in figures.items()})
    if as_json:
        click.echo(json.dumps(result))
    else:
        Console(highlight=False).print(table(result))
        click.echo(verdict(result))


def summary(medians: dict[str, float]) -> dict[str, Any]:
    """The figures that people compare, and below them what they are made of."""
    live8 = medians["live8_cpu_fast"]
    return {
        "bulk_send_vs_stock": medians["bulk_send_fast"] / medians["bulk_send_stock"],
        "bulk_recv_vs_stock": medians["bulk_recv_fast"] / medians["bulk_recv_stock"],
        "relay3_vs_stock": medians["relay3_cpu_stock"] / medians["relay3_cpu_fast"],
        "live3_cpu_vs_stock": medians["live3_cpu_fast"] / medians["live3_cpu_stock"],
        "live8_cpu_vs_stock": live8 / medians["live8_cpu_stock"],
        "live8_cpu": live8,
        "loss2_piece_delay_s_p99": medians["delay_p99_fast_loss2"],
        "loss2_goodput_vs_stock": medians["goodput_fast_loss2"] / medians["goodput_stock_loss2"],
        "full_stack_share": live8 / medians["live8_cpu_whole"],
        "viewers_at_4_mbit": int(
            BUSY / medians["live8_cpu_whole"] * 8 * LIVE_BITS_PER_S / VIEWER_BITS_PER_S
        ),
        "medians": dict(sorted(medians.items())),
    }


def table(result: dict[str, Any]) -> Table:
    """For people."""
    medians = result["medians"]
    out = Table("", "ours", "stock aioquic", "ratio", title="what this machine can serve")

    def row(name: str, key: str, form: Callable[[float], str]) -> None:
        ours, stock = medians[key.format("fast")], medians[key.format("stock")]
        out.add_row(name, form(ours), form(stock), f"{ours / stock:.2f}" if stock else "")

    row("send, MB per CPU second", "bulk_send_{}", "{:.0f}".format)
    row("receive, MB per CPU second", "bulk_recv_{}", "{:.0f}".format)
    row("pass on 24 Mbit/s to 3, of a core", "relay3_cpu_{}", "{:.1%}".format)
    row("pass on 6 Mbit/s to 3, of a core", "live3_cpu_{}", "{:.1%}".format)
    row("pass on 6 Mbit/s to 8, of a core", "live8_cpu_{}", "{:.1%}".format)
    whole = medians["live8_cpu_whole"]
    out.add_row("  verified and stored first", f"{whole:.1%}", "", "")
    out.add_section()
    for name, words in [*((_loss(loss), f"{loss:.1%} lost") for loss in LOSSES),
                        ("reorder", f"{REORDER:.0%} reordered")]:  # fmt: skip
        row(f"piece delay p50, {words}", f"delay_p50_{{}}_{name}", _ms)
        row(f"piece delay p99, {words}", f"delay_p99_{{}}_{name}", _ms)
    row("goodput, 2 % lost, Mbit/s", "goodput_{}_loss2", lambda v: f"{v * 8 / MB:.1f}")
    return out


def verdict(result: dict[str, Any]) -> str:
    """One line to remember."""
    return f"This machine can feed about {result['viewers_at_4_mbit']} viewers at 4 Mbit/s."


# The steps of a round. Each measures ours and the stock one, one right after the other.


def bulk(figures: Figures) -> None:
    """Megabytes per CPU second, as fast as it goes."""
    for engine in ("fast", "stock"):
        size = BULK_BYTES if engine == "fast" else BULK_BYTES // 3
        with process("receive", engine=engine, bytes=size) as sink:
            peers = sink.hear()["nodes"]
            with process("send", engine=engine, bytes=size, peers=peers) as source:
                figures[f"bulk_recv_{engine}"].append(_speed(sink.hear()))
                figures[f"bulk_send_{engine}"].append(_speed(source.hear()))


def relay3(figures: Figures) -> None:
    """The share of a core that passing on to three peers takes."""
    for engine in ("fast", "stock"):
        figures[f"relay3_cpu_{engine}"].append(pass_on(3, RELAY_BITS_PER_S, engine))


def live(figures: Figures) -> None:
    """The same at the rate of a stream."""
    for count in (3, 8):
        for engine in ("fast", "stock"):
            figures[f"live{count}_cpu_{engine}"].append(pass_on(count, LIVE_BITS_PER_S, engine))
    figures["live8_cpu_whole"].append(pass_on(8, LIVE_BITS_PER_S, "fast", whole=True))


def pass_on(count: int, bits_per_s: float, engine: str, *, whole: bool = False) -> float:
    """The share of a core that a relay takes which feeds `count` peers."""
    with process("receive", engine="fast", nodes=count) as sinks:
        peers = sinks.hear()["nodes"]
        with process("relay", engine=engine, peers=peers, whole=whole) as middle:
            setup = {"peers": middle.hear()["nodes"], "bits_per_s": bits_per_s, "seconds": LIVE_S}
            with process("send", engine="fast", **setup) as source:
                source.hear()
                middle.tell()
                cost = middle.hear()
                share: float = cost["cpu_s"] / cost["wall_s"]
                return share


def link(figures: Figures) -> None:
    """Piece delays and goodput on a home's uplink, in virtual time."""
    from p2pstream.net.bench import live_link  # noqa: PLC0415  # `--help` needs none of it.

    seed = len(figures["goodput_fast_loss2"]) + 1
    for engine, name in (("fast", "fast"), ("aioquic", "stock")):
        paths: list[tuple[str, dict[str, float]]] = [
            (_loss(loss), {"loss": loss}) for loss in LOSSES
        ]
        for path, weather in [*paths, ("reorder", {"reorder": REORDER})]:
            way = live_link(
                engine, bits_per_s=LIVE_BITS_PER_S, seconds=LINK_S, seed=seed, **weather
            )
            figures[f"delay_p50_{name}_{path}"].append(percentile(way.delays_s, 0.5))
            figures[f"delay_p99_{name}_{path}"].append(percentile(way.delays_s, 0.99))
        way = live_link(engine, loss=0.02, bits_per_s=GOODPUT_BITS_PER_S, seconds=LINK_S, seed=seed)
        figures[f"goodput_{name}_loss2"].append(way.bytes_per_s)


STEPS: dict[str, Callable[[Figures], None]] = {
    "bulk": bulk,
    "relay to 3": relay3,
    "live": live,
    "home link": link,
}


class Worker:
    """A process of `p2pstream.net.bench`. It ends when its standard input does."""

    def __init__(self, role: str, setup: dict[str, Any]) -> None:
        self.role = role
        self.process = subprocess.Popen(  # noqa: S603  # Ourselves.
            [sys.executable, "-m", "p2pstream.net.bench", role, json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

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
        """Ask for its result."""
        assert self.process.stdin is not None
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
            worker.process.stdin.close()
            worker.process.wait(PATIENCE_S)
        finally:
            worker.process.kill()


def _speed(cost: dict[str, float]) -> float:
    return cost["bytes"] / MB / cost["cpu_s"]


def _loss(loss: float) -> str:
    return f"loss{loss * 100:g}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
