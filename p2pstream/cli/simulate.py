"""`p2pstream simulate`: whole meshes in virtual time. The only door to `simulations/`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from time import monotonic  # noqa: TID251  # For the ETA only: nothing of a run depends on it.
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from p2pstream.cli.common import json_option
from p2pstream.errors import BadConfig, MissingHelper, UserError

if TYPE_CHECKING:
    from simulations.cells import Cell, Row

SHOWN = (
    ("viewers_playing", "viewers playing", ""), ("startup_s_p50", "start-up, median", "s"),
    ("startup_s_p95", "start-up, 95 %", "s"), ("lag_s_p50", "lag, median", "s"),
    ("lag_s_p95", "lag, 95 %", "s"), ("lag_s_p99", "lag, 99 %", "s"),
    ("stall_ratio", "stalled", "%"), ("continuity", "chunks on time", "%"),
    ("offload", "carried by others than the origin", "%"), ("offload_limit", "  at most", "%"),
    ("duplicate_ratio", "sent twice", "%"), ("control_ratio", "overhead", "%"),
    ("repair_s", "repaired after", "s"), ("peer_s_per_cpu_s", "peer-seconds a CPU-second", ""),
    ("peer_s_per_m_rounds", "  for a million rounds of a loop", ""),
)  # fmt: skip


SWEPT = ("lag_s_p95", "stall_ratio", "offload")
F = TypeVar("F", bound=Callable[..., Any])


class Simulate(click.Group):
    """`simulate SCENARIO` is `simulate run SCENARIO`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Whatever is no subcommand is a scenario."""
        if args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options before the scenario belong to `run`."""
        if args and args[0].startswith("-") and args[0] not in {"-h", "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=Simulate,
    epilog="""\b
Examples:
  p2pstream simulate --list
  p2pstream simulate steady
  p2pstream simulate flash_crowd --seeds 1-10 --jobs 2 --report crowd.html
  p2pstream simulate my.toml --seed 7 --json
  p2pstream simulate replay churn 3
  p2pstream simulate diff churn 3 4
  p2pstream simulate shrink my.toml 7 --out small.toml
  p2pstream simulate sweep steady --set groups.homes.n=10,20,40 --seeds 1-3 --jobs 2
""",
)
def command() -> None:
    """Drive a whole mesh in virtual time: one scenario file, the real code.

    The same DHT and mesh as in a real node, by the hundred, on simulated links. The same seed
    gives the same run, to the bit. docs/SIMULATION.md explains scenarios and figures.
    """


tier_option = click.option(
    "--tier", type=click.Choice(["core", "quic", "model"]), default="core", show_default=True,
    help="What a node is made of: its cores on light links, all of it with real QUIC (tens of "
         "hosts), or arrays (up to a million).",
)  # fmt: skip


def spread_options(decorated: F) -> F:
    """Where simulations are computed."""
    for option in (
        click.option("--scheduler", metavar="ADDR", help="Of --engine dask, as tcp://host:8786."),
        click.option("--engine", type=click.Choice(["local", "dask"]), default="local",
                     show_default=True, help="Here, or on a Dask cluster that runs already."),
        click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True,
                     help="Spread the work over so many processes."),
    ):  # fmt: skip
        decorated = option(decorated)
    return decorated


@command.command("run")
@click.argument("scenario", required=False)
@click.option("--seed", type=int, help="One seed (default: 1).")
@click.option("--seeds", metavar="1-20", help="Several, as 1-20 or 1,3,5.")
@tier_option
@spread_options
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.html",
              help="Write one page that shows what happened.")  # fmt: skip
@click.option("--against", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Compare with a summary; worse figures fail.")  # fmt: skip
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Keep the summary, for --against.")  # fmt: skip
@click.option("--list", "as_list", is_flag=True, help="Show the scenarios that come along.")
@json_option
def run_command(
    scenario: str | None, seed: int | None, seeds: str | None, tier: str, jobs: int, engine: str,
    scheduler: str | None, report: Path | None, against: Path | None, save: Path | None,
    as_list: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run a scenario: a file, or the name of one that comes along."""
    reading = _simulations()
    if as_list:
        _list(as_json=as_json)
        return
    if scenario is None:
        raise click.UsageError("which scenario? See p2pstream simulate --list.")
    from simulations import compare, runner, tiers  # noqa: PLC0415  # Not on others' way.
    from simulations.cells import Cell  # noqa: PLC0415

    cluster = _cluster(engine, scheduler)
    path = reading.find(scenario)
    wanted = _seeds(seed, seeds)
    values = reading.load(path)
    parsed = reading.make(values, str(path))
    tiers.check(tier, parsed)
    old = compare.load(against) if against else None
    if report is not None:
        _need_matplotlib()
    rows = []
    cells = [Cell(values, str(path), number, tier) for number in wanted]
    for row in _run(cells, parsed.name, jobs, cluster, as_json=as_json):
        rows.append(row)
        if as_json:
            click.echo(json.dumps(row))
    summary = runner.summary_of(parsed, rows)
    if as_json:
        click.echo(json.dumps({"summary": summary}))
    else:
        _tell(rows, summary)
    if save is not None:
        runner.write_summary(save, summary)
    changed = compare.changes(old, summary) if old else []
    if old and not as_json:
        _tell_changes(changed)
    if report is not None:
        from simulations.report import write  # noqa: PLC0415  # matplotlib costs a second.

        write(report, parsed, rows, summary, changed)
        click.echo(f"report: {report}", err=True)
    _judge(
        _again(scenario, tier),
        summary,
        [change.name for change in changed if change.verdict == "worse"],
    )


@command.command()
@click.argument("scenario")
@click.argument("seed", type=int)
@click.option("--from", "since", type=float, default=0.0, help="Show events from this second on.")
@click.option("--to", "until", type=float, default=float("inf"), help="Until this second.")
@click.option("--host", type=int, help="Only those of this host.")
def replay(scenario: str, seed: int, since: float, until: float, host: int | None) -> None:
    """Run one seed again and print what happened, event by event."""
    reading = _simulations()
    from simulations.fabric.trace import words  # noqa: PLC0415  # As above.
    from simulations.runner import run_one  # noqa: PLC0415

    outcome = run_one(reading.read(reading.find(scenario)), seed, record=True)
    for event in outcome.recorded or ():
        if since <= event[0] <= until and host in {None, event[2], event[3]}:
            click.echo(words(event))
    for verdict in outcome.verdicts:
        if not verdict.passed:
            click.echo(f"FAILED {verdict.name}: {verdict.detail}")
    click.echo(f"trace {outcome.trace_hash}")


@command.command()
@click.argument("scenario")
@click.argument("seed", type=int)
@click.argument("other_seed", type=int)
@click.option("--with", "other", metavar="SCENARIO", help="Another scenario for the second run.")
def diff(scenario: str, seed: int, other_seed: int, other: str | None) -> None:
    """Show the first event in which two runs differ."""
    reading = _simulations()
    from simulations.compare import first_difference  # noqa: PLC0415  # As above.
    from simulations.runner import run_one  # noqa: PLC0415

    runs = [
        run_one(reading.read(reading.find(name)), number, record=True).recorded or []
        for name, number in ((scenario, seed), (other or scenario, other_seed))
    ]
    found = first_difference(*runs)
    if found is None:
        click.echo(f"the same {len(runs[0])} events")
        return
    nth, one, two = found
    click.echo(f"the first {nth} events are the same, then\n  1: {one}\n  2: {two}")


@command.command()
@click.argument("scenario")
@click.argument("seed", type=int)
@tier_option
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.toml",
              help="Where to write it (default: standard output).")  # fmt: skip
def shrink(scenario: str, seed: int, tier: str, out: Path | None) -> None:
    """Find the fewest hosts and faults that still fail.

    The same verdict must fail with the same seed. What cannot be left out is written as a scenario.
    """
    reading = _simulations()
    from simulations import tiers  # noqa: PLC0415  # As above.
    from simulations.shrink import Shrinker, toml  # noqa: PLC0415

    path = reading.find(scenario)
    values = reading.load(path)
    tiers.check(tier, reading.make(values, str(path)))

    def told(hosts: int, faults: int, came: str) -> None:
        click.echo(f"{hosts} hosts, {faults} faults: {came}", err=True)

    shrinker = Shrinker(values, str(path), seed, told, tier)
    text = toml(shrinker.shrink())
    click.echo(f"still fails after {shrinker.runs} runs: {shrinker.failure}", err=True)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text)
        click.echo(
            f"Replay it: p2pstream simulate {_again(str(out), tier)} --seed {seed}", err=True
        )


@command.command()
@click.argument("scenario")
@click.option("--set", "settings", multiple=True, metavar="KEY=A,B,...", required=True,
              help="A key and its values, as groups.homes.n=10,20 or faults.0.share=0.2,0.5; "
                   "several: all combinations.")  # fmt: skip
@click.option("--seeds", metavar="1-20", help="Seeds of each cell, as 1-20 or 1,3,5 (default: 1).")
@click.option("--show", metavar="FIGURE,...", default=",".join(SWEPT), show_default=True,
              help="Which figures the table and the picture show.")  # fmt: skip
@click.option("--rows", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.jsonl",
              help="Keep one JSON object for each cell.")  # fmt: skip
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.svg",
              help="Draw the figures over the first key.")  # fmt: skip
@tier_option
@spread_options
@json_option
def sweep(
    scenario: str, settings: tuple[str, ...], seeds: str | None, show: str, rows: Path | None,
    picture: Path | None, tier: str, jobs: int, engine: str, scheduler: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Run a scenario over a grid of values."""
    reading = _simulations()
    from simulations import grid  # noqa: PLC0415  # As above.

    cluster = _cluster(engine, scheduler)
    path = reading.find(scenario)
    axes = [grid.axis_of(text) for text in settings]
    cells = grid.cells_of(reading.load(path), str(path), axes, _seeds(None, seeds), tier)
    shown = _figures(show, tier)
    if picture is not None:
        _need_matplotlib()
    points = grid.points_of(axes)
    each = len(cells) // len(points)
    found = []
    with rows.open("w") if rows is not None else nullcontext() as file:
        for nth, row in enumerate(_run(cells, path.stem, jobs, cluster, as_json=as_json)):
            found.append(row)
            line = json.dumps({"cell": points[nth // each], **row})
            if file is not None:
                file.write(line + "\n")
            if as_json:
                click.echo(line)
    summary = grid.summary_of(points, found)
    if as_json:
        click.echo(json.dumps({"summary": summary}))
    else:
        _tell_grid(summary, shown)
    if picture is not None:
        from simulations.report.sweep import picture_of  # noqa: PLC0415  # matplotlib: a second.

        picture.write_text(picture_of(summary, shown))
        click.echo(f"picture: {picture}", err=True)


def _figures(text: str, tier: str) -> list[str]:
    from simulations import tiers  # noqa: PLC0415  # As above.
    from simulations.metrics import NAMES  # noqa: PLC0415
    from simulations.reading import nearest  # noqa: PLC0415

    for name in (names := [name.strip() for name in text.split(",")]):
        if name not in NAMES:
            raise BadConfig(f"there is no figure {name!r}", hint=nearest(name, NAMES))
        if name in tiers.UNCOUNTED.get(tier, ()):
            raise BadConfig(f"the tier {tier} does not count {name}", hint="Show another figure.")
    return names


def _tell_grid(summary: list[dict[str, Any]], shown: list[str]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in (*summary[0]["point"], *shown, "passed"):
        table.add_column(name, justify="right")
    for one in summary:
        figures = [one["figures"][name] for name in shown]
        told = [f"{f['mean']:g}" + (f" ± {f['ci95']:.2g}" if f["ci95"] else "") for f in figures]
        passed = "[green]yes" if one["passed"] else "[red]no"
        table.add_row(*map(str, one["point"].values()), *told, passed)
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def _simulations() -> Any:
    """The package beside ours. Raises `MissingHelper`."""
    try:
        from simulations import reading  # noqa: PLC0415  # It may not be installed.
    except ImportError as error:
        raise MissingHelper(
            f"the simulations are not installed: {error}",
            hint="Run this in a checkout, or install p2pstream-mesh[sim].",
        ) from None
    return reading


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401, ICN001, PLC0415  # Only to see that it is there.
    except ImportError:
        raise MissingHelper(
            "a report needs matplotlib", hint="pip install 'p2pstream-mesh[sim]'"
        ) from None


def _seeds(seed: int | None, seeds: str | None) -> list[int]:
    if seed is not None and seeds is not None:
        raise click.UsageError("either --seed or --seeds")
    if seeds is None:
        return [1 if seed is None else seed]
    from simulations.runner import seeds_of  # noqa: PLC0415  # As above.

    try:
        return seeds_of(seeds)
    except ValueError:
        raise click.BadParameter(f"{seeds!r} is not written like 1-20 or 1,3,5") from None


def _cluster(engine: str, scheduler: str | None) -> str | None:
    """The scheduler's address; None for this machine."""
    if (engine == "dask") != (scheduler is not None):
        raise click.UsageError("--engine dask and --scheduler ADDR belong together")
    return scheduler


def _run(
    cells: list[Cell], name: str, jobs: int, scheduler: str | None, *, as_json: bool
) -> Iterator[Row]:
    """All rows, with progress on a terminal."""
    from simulations import runner  # noqa: PLC0415  # As above.

    console = Console(stderr=True, highlight=False)
    quiet = as_json or not console.is_terminal
    shares = [0.0] * len(cells)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(),
               TextColumn("[dim]{task.fields[told]}"))  # fmt: skip
    began = monotonic()
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task(name, total=len(cells), told="")

        def told(nth: int, at: float, end: float) -> None:
            shares[nth] = at / end
            words = f"seed {cells[nth].seed}, {at:.0f} of {end:.0f} s"
            words += f", {monotonic() - began:.0f} s so far"
            bar.update(task, completed=sum(shares), told=words)

        yield from runner.run_cells(cells, jobs=jobs, scheduler=scheduler, told=told)


def _tell(rows: list[Row], summary: dict[str, Any]) -> None:
    console = Console(highlight=False)
    count = len(rows)
    table = Table(title=f"{summary['scenario']}: {count} seed{'s' * (count > 1)}",
                  show_header=False, title_justify="left", box=None)  # fmt: skip
    for name, words, unit in SHOWN:
        figure = summary["figures"].get(name)
        if figure is None:
            continue  # This tier knows nothing of it.
        table.add_row(words, _value(figure["mean"], unit), _spread(figure["ci95"], unit))
    console.print(table)
    for fault in rows[0]["faults"]:
        console.print(f"[dim]{fault['kind']} at {fault['from_s']:g} s touched "
                      f"{fault['touched']} {fault['unit']}")  # fmt: skip
    console.print(f"[dim]trace of seed {rows[0]['seed']}: {rows[0]['trace_hash']}")
    for failed in summary["failed"]:
        console.print(f"[red]seed {failed['seed']}: {failed['name']}[/] {failed['detail']}")
    for verdict in summary["sometimes"]:
        if not verdict["passed"]:
            console.print(f"[red]never happened: {verdict['name']}")
    console.print("[green]passed" if summary["passed"] else "[red]failed")


def _tell_changes(changed: list[Any]) -> None:
    console = Console(highlight=False)
    for change in changed:
        if change.verdict in {"better", "worse"}:
            colour = "green" if change.verdict == "better" else "red"
            console.print(f"[{colour}]{change.name}: {change.old:g} -> {change.new:g} "
                          f"({change.verdict}, noise {change.noise:g})")  # fmt: skip
    if all(change.verdict in {"same", "told"} for change in changed):
        console.print("[dim]as in the baseline")


def _value(value: float, unit: str) -> str:
    return f"{100 * value:.2f} %" if unit == "%" else f"{value:.2f} {unit}"


def _spread(half: float, unit: str) -> str:
    return f"[dim]± {_value(half, unit)}" if half else ""


def _again(scenario: str, tier: str) -> str:
    """What to say to run it again, but for the seeds."""
    return scenario if tier == "core" else f"{scenario} --tier {tier}"


def _judge(scenario: str, summary: dict[str, Any], worse: list[str]) -> None:
    """Raises `UserError` with the one command that replays the failure."""
    if summary["failed"]:
        first = summary["failed"][0]
        raise UserError(
            f"{scenario}, seed {first['seed']}: {first['name']}: {first['detail']}",
            hint=f"Replay it: p2pstream simulate {scenario} --seed {first['seed']}",
        )
    if not summary["passed"]:
        never = ", ".join(v["name"] for v in summary["sometimes"] if not v["passed"])
        raise UserError(f"{scenario}: in no seed: {never}", hint="Run more seeds.")
    if worse:
        seeds = ",".join(map(str, summary["seeds"]))
        raise UserError(
            f"{scenario}: worse than the baseline: {', '.join(worse)}",
            hint=f"Replay it: p2pstream simulate {scenario} --seeds {seeds}",
        )


def _list(*, as_json: bool) -> None:
    from simulations import reading  # noqa: PLC0415  # As above.

    found = {name: reading.read(reading.find(name)) for name in reading.names()}
    if as_json:
        told = [{"name": n, "purpose": s.purpose, "hosts": sum(g.n for g in s.groups),
                 "duration_s": s.duration_s} for n, s in found.items()]  # fmt: skip
        click.echo(json.dumps({"scenarios": told}))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("scenario", "hosts", "time", "purpose"):
        table.add_column(column, justify="right" if column in {"hosts", "time"} else "left")
    for name, scenario in found.items():
        hosts = str(sum(group.n for group in scenario.groups))
        table.add_row(name, hosts, f"{scenario.duration_s:g} s", scenario.purpose)
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


__all__ = ["BadConfig", "command"]
