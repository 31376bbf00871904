"""`p2pstream status`."""

from __future__ import annotations

import json
from typing import Any

import click
import trio

from p2pstream.errors import NodeNotRunning
from p2pstream.node.control import running
from p2pstream.node.state import Paths


@click.command(epilog="\b\nExamples:\n  p2pstream status\n  p2pstream status --json")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(as_json: bool) -> None:
    """Show the nodes of yours that run on this machine."""
    nodes = trio.run(running, Paths.default().runtime)
    if not nodes:
        raise NodeNotRunning(
            "no node of yours is running here",
            hint="Start one with p2pstream broadcast, watch or seed.",
        )
    if as_json:
        click.echo(json.dumps({"nodes": nodes}))
        return
    from rich.console import Console  # noqa: PLC0415  # JSON needs no colours.

    console = Console(highlight=False)
    for node in nodes:
        console.print(f"[bold]{node['command']}[/]  pid {node['pid']}")
        console.print(_table(node))


def _table(node: dict[str, Any]) -> Any:
    from p2pstream.cli import broadcasting, seeding, watching  # noqa: PLC0415  # Each its own.

    tables = {
        "watch": watching.table,
        "broadcast": broadcasting.table,
        "seed": seeding.table,
    }
    return tables[node["command"]](node)
