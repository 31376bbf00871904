"""`p2pstream watch`."""

from __future__ import annotations

import click

from p2pstream.access import parse_ticket
from p2pstream.cli.common import Talk, advertised, json_option, network_options, run
from p2pstream.swarm.defaults import VIEWER_COPIES

PLAYERS = ["browser", "mpv", "vlc", "none"]


@click.command(
    epilog="""\b
Examples:
  p2pstream watch p2pstream://...                    open the page in a browser
  p2pstream watch p2pstream://... --player mpv       play in mpv
  p2pstream watch p2pstream://... -o talk.mp4        record; with -o - to standard output
"""
)
@click.argument("ticket")
@click.option("--player", type=click.Choice(PLAYERS), default="browser", show_default=True,
              help="What to open.")  # fmt: skip
@click.option("-o", "--output", metavar="FILE", help="Record the verified stream (-: stdout).")
@click.option("--http-port", type=click.IntRange(0, 65535), default=0,
              help="TCP port of the page (0: any).")  # fmt: skip
@click.option("--page/--no-page", default=True, help="Serve the page and playlists.")
@click.option("--copies", type=click.FloatRange(0, 1000), default=VIEWER_COPIES, show_default=True,
              help="Upload to others, in rates of the stream.")  # fmt: skip
@network_options
@json_option
def command(
    ticket: str, player: str, output: str | None, http_port: int, page: bool, copies: float,
    host: str, port: int | None, advertise: str | None, yields: bool, as_json: bool,
) -> None:  # fmt: skip
    """Watch the stream of TICKET, and pass it on to others."""
    talk = Talk(as_json=as_json and output != "-")
    where = advertised(advertise)
    parsed = parse_ticket(ticket)
    from p2pstream.cli.watching import watch  # noqa: PLC0415  # Half a second of imports.

    run(
        lambda work: watch(
            parsed, talk, work, player=player if page else "none", output=output,
            http_port=http_port if page else None, copies=copies,
            bind=(host, port or 0), advertise=where, yields=yields,
        )
    )  # fmt: skip
