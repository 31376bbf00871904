"""`p2pstream seed`."""

from __future__ import annotations

import click

from p2pstream.cli.common import (
    Talk,
    advertised,
    free_port,
    json_option,
    network_options,
    parse_seed,
    run,
)
from p2pstream.swarm.defaults import SEED_COPIES, SEED_STREAMS_MAX

PORT = 7441  # Unassigned by IANA.


@click.command(
    epilog="""\b
Examples:
  p2pstream seed
  p2pstream seed --bootstrap <id>@203.0.113.7:7441 --copies 40
  p2pstream --config /etc/p2pstream/seed.toml seed
"""
)
@click.option("--bootstrap", multiple=True, metavar="ID@IP:PORT",
              help="Another seed of the same network (repeatable).")  # fmt: skip
@click.option("--copies", type=click.FloatRange(0, 10000), default=SEED_COPIES, show_default=True,
              help="Upload of each stream at most, in rates of the stream.")  # fmt: skip
@click.option("--streams", type=click.IntRange(0, 32), default=SEED_STREAMS_MAX, show_default=True,
              help="Streams to relay at once.")  # fmt: skip
@click.option("--name", default="seed", show_default=True, help="Which of your seeds: its key.")
@network_options
@json_option
def command(
    bootstrap: tuple[str, ...], copies: float, streams: int, name: str, host: str,
    port: int | None, advertise: str | None, yields: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run an always-on node through which others find streams, and that relays them."""
    if not name.replace("-", "").replace("_", "").isalnum():
        raise click.BadParameter("a seed's name has letters, digits, - and _ only")
    talk = Talk(as_json=as_json)
    where = advertised(advertise)
    others = [(seed.node, seed.address) for seed in map(parse_seed, bootstrap)]
    from p2pstream.cli.seeding import seed  # noqa: PLC0415  # Half a second of imports.

    run(
        lambda work: seed(
            talk, work, name=name, others=others, copies=copies, streams=streams,
            bind=(host, free_port(host, PORT) if port is None else port),
            advertise=where, yields=yields,
        )
    )  # fmt: skip
