"""`p2pstream broadcast`."""

from __future__ import annotations

from pathlib import Path

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
from p2pstream.media.options import Source, is_url
from p2pstream.swarm.defaults import ORIGIN_COPIES

PORT = 7440  # Unassigned by IANA. A fixed port keeps tickets valid over a restart.


@click.command(
    epilog="""\b
INPUT is a file, - for standard input, a URL that FFmpeg reads, or testsrc.
\b
Examples:
  p2pstream broadcast talk.mp4
  p2pstream broadcast --loop talk.mp4 --ladder 720p:2500k,480p:1M
  ffmpeg ... -f mpegts - | p2pstream broadcast - --title "Town hall"
  p2pstream broadcast testsrc --seed <id>@203.0.113.7:7441
"""
)
@click.argument("input_", metavar="INPUT")
@click.option("--title", help="What viewers see.")
@click.option("--loop", is_flag=True, help="Play a file again and again.")
@click.option("--ladder", default="", metavar="RUNGS",
              help="Renditions to encode (720p:2500k,480p), or one bit rate (1M).")  # fmt: skip
@click.option("--seed", multiple=True, metavar="ID@IP:PORT",
              help="A seed to be found through (repeatable).")  # fmt: skip
@click.option("--name", default="default", show_default=True,
              help="Which of your streams: each name is a stream of its own.")  # fmt: skip
@click.option("--copies", type=click.FloatRange(1, 1000), default=ORIGIN_COPIES, show_default=True,
              help="Upload at most, in rates of the stream.")  # fmt: skip
@network_options
@json_option
def command(
    input_: str, title: str | None, loop: bool, ladder: str, seed: tuple[str, ...], name: str,
    copies: float, host: str, port: int | None, advertise: str | None, yields: bool, as_json: bool,
) -> None:  # fmt: skip
    """Broadcast INPUT live and print its ticket."""
    if not name.replace("-", "").replace("_", "").isalnum():
        raise click.BadParameter("a stream's name has letters, digits, - and _ only")
    talk = Talk(as_json=as_json)
    where = advertised(advertise)
    seeds = tuple(parse_seed(text) for text in seed)
    source = Source(input=input_, loop=loop, rungs=ladder)
    from p2pstream.cli.broadcasting import broadcast  # noqa: PLC0415  # Half a second of imports.

    run(
        lambda work: broadcast(
            source, talk, work, title=title or _title(input_), name=name, copies=copies,
            seeds=seeds,
            bind=(host, free_port(host, PORT) if port is None else port),
            advertise=where, yields=yields,
        )
    )  # fmt: skip


def _title(text: str) -> str:
    if text in {"-", "testsrc"}:
        return {"-": "Live", "testsrc": "Test picture"}[text]
    return text.rsplit("/", 1)[-1] if is_url(text) else Path(text).stem
