"""`p2pstream ticket`."""

from __future__ import annotations

import json

import click

from p2pstream.access import base32, parse_ticket
from p2pstream.cli.common import show_address


@click.group()
def command() -> None:
    """Look into tickets."""


@command.command(epilog="\b\nExamples:\n  p2pstream ticket show p2pstream://...")
@click.argument("ticket")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def show(ticket: str, as_json: bool) -> None:
    """Show what TICKET says: the stream's id and the seeds that know the way."""
    parsed = parse_ticket(ticket)
    seeds = [
        {"node": seed.node.hex(), "address": show_address(seed.address)} for seed in parsed.seeds
    ]
    if as_json:
        click.echo(json.dumps({"stream": base32(parsed.stream), "seeds": seeds}))
        return
    click.echo(f"stream  {base32(parsed.stream)}")
    for seed in seeds:
        click.echo(f"seed    {seed['node'][:16]}  {seed['address']}")
