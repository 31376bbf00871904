"""What `p2pstream seed` does: stands there, relays, and tells how it goes."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, ExitStack
from ipaddress import ip_address
from typing import Any

import click
import trio
from rich.markup import escape
from rich.table import Table

from p2pstream.access import base32
from p2pstream.cli.common import STATS_S, Talk, counted, show_address, size
from p2pstream.identity import Address, NodeKey
from p2pstream.node.control import showing
from p2pstream.node.node import Node, lan, primary_ip
from p2pstream.node.seed import Seed
from p2pstream.node.state import Paths, Store

LINGER_S = 0.2  # For the partners to hear that we go.
SAVE_S = 60.0  # How often the peers we know are written down.


async def seed(
    talk: Talk,
    work: trio.CancelScope,
    *,
    name: str,
    others: list[Any],
    copies: float,
    streams: int,
    bind: Address,
    advertise: Address | None,
    yields: bool,
) -> None:
    """Until it is stopped."""
    paths = Paths.default()
    store = Store(paths.state)
    async with AsyncExitStack() as stack:
        keys = stack.enter_context(ExitStack())
        key = keys.enter_context(store.node_key(name).use(NodeKey))
        own = advertise or (bind if not ip_address(bind[0]).is_unspecified else (primary_ip(), 0))
        node = Node(
            key, host=bind[0], port=bind[1], advertise=advertise, yields=yields, note=talk.note,
            allow_private=lan([own, *(address for _, address in others)]),
        )  # fmt: skip
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(node.run)
        node.bootstrap([*others, *store.peers()])
        relay = Seed(node, copies=copies, streams_max=streams)
        await stack.enter_async_context(showing(paths.runtime, "seed", relay.state))
        where = f"{base32(node.node_id)}@{show_address(node.address)}"
        talk.event("running", seed=where, node=node.node_id.hex(), pid=os.getpid())
        if not as_data(talk, where):
            talk.say("\nOthers reach the network through it, for example:")
            talk.say(f"  p2pstream broadcast testsrc --seed {where}\n")
        nursery.start_soon(show, relay, talk)
        nursery.start_soon(_remember, node, store)
        with work:
            await relay.run()
        relay.leave()
        await trio.sleep(LINGER_S)
        store.save_peers(node.contacts())
        nursery.cancel_scope.cancel()


def as_data(talk: Talk, where: str) -> bool:
    """Print the seed's address on stdout, so that it can be piped. True when JSON said it."""
    if talk.as_json:
        return True
    talk.say("[bold]This seed is running.[/] Its address:\n")
    click.echo(where)
    return False


async def show(relay: Seed, talk: Talk) -> None:
    """Refresh the figures once a second."""
    with talk.picture() as live:
        while True:
            await trio.sleep(STATS_S)
            if talk.as_json:
                talk.event("stats", **relay.state())
            elif live is not None:
                live.update(table(relay.state()), refresh=True)


def table(state: dict[str, Any]) -> Table:
    """The live picture on a terminal."""
    out = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    out.add_row("[bold]seed[/]", state["address"])
    out.add_row(
        "network",
        f"{counted(state['links'], 'link')}, {counted(state['records'], 'provider record')}",
    )
    for stream in state["streams"]:
        totals = stream["totals"]
        title = stream["stream"]["title"] or stream["stream"]["id"][:12]
        given = size(totals["uploaded"])
        out.add_row(
            f"[green]●[/] {escape(title)}",
            f"{counted(len(stream['partners']), 'partner')}, gave {given}",
        )
    if not state["streams"]:
        out.add_row("[dim]streams[/]", "[dim]none yet: somebody has to ask for one[/]")
    return out


async def _remember(node: Node, store: Store) -> None:
    while True:
        await trio.sleep(SAVE_S)
        store.save_peers(node.contacts())
