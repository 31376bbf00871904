"""What `p2pstream broadcast` does: takes the input in, gives it to the mesh, tells how it goes."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, ExitStack
from ipaddress import ip_address
from typing import Any

import click
import trio
from rich.markup import escape
from rich.table import Table

from p2pstream.access import Seed, Ticket
from p2pstream.cli.common import STATS_S, Talk, counted, cpu_s, size
from p2pstream.core import Note
from p2pstream.identity import Address, NodeKey, StreamKey
from p2pstream.media.ingest import Ingest
from p2pstream.media.options import Source
from p2pstream.node.broadcaster import Broadcaster
from p2pstream.node.control import showing
from p2pstream.node.node import Node, lan, primary_ip
from p2pstream.node.state import Paths, Store

LINGER_S = 2.0  # After the end, so that the last chunks and the news of it get out.


async def broadcast(
    source: Source, talk: Talk, work: trio.CancelScope, *, title: str, name: str, copies: float,
    seeds: tuple[Seed, ...], bind: Address, advertise: Address | None, yields: bool,
) -> None:  # fmt: skip
    """Until the input ends."""
    paths = Paths.default()
    store = Store(paths.state)
    ingest = Ingest(source)
    async with AsyncExitStack() as stack:
        keys = stack.enter_context(ExitStack())
        root = keys.enter_context(store.stream_key(name).use(StreamKey))
        key = keys.enter_context(store.node_key(f"broadcast-{name}").use(NodeKey))
        known = [(seed.node, seed.address) for seed in seeds]
        own = advertise or (bind if not ip_address(bind[0]).is_unspecified else (primary_ip(), 0))
        node = Node(
            key, host=bind[0], port=bind[1], advertise=advertise, yields=yields, note=talk.note,
            allow_private=lan([own, *(address for _, address in known)]),
        )  # fmt: skip
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(node.run)
        node.bootstrap([*known, *store.peers()])
        live = False

        def note(news: Note) -> None:
            """The ticket is worth giving away once the input plays."""
            nonlocal live
            if news.event in {"opened", "ended"}:  # The picture and the farewell say it to people.
                talk.event(news.event, **news.fields)
            else:
                talk.note(news)
            if news.event == "opened" and not live:
                live = True
                own_seed = Seed(node.node_id, node.address)
                _show_ticket(talk, Ticket(root.stream_id, (*seeds, own_seed)), title)
                nursery.start_soon(show, caster, talk)

        caster = Broadcaster(node, root, store, ingest, title, copies=copies, note=note)
        caster.start()
        await stack.enter_async_context(showing(paths.runtime, "broadcast", caster.state))
        with work:
            await caster.run()
        caster.end()
        await trio.sleep(LINGER_S)
        _finish(caster, talk)
        store.save_peers(node.contacts())
        nursery.cancel_scope.cancel()


async def show(caster: Broadcaster, talk: Talk) -> None:
    """Refresh the figures once a second."""
    cpu_0, since = cpu_s(), trio.current_time()
    with talk.picture() as live:
        while True:
            await trio.sleep(STATS_S)
            state = caster.state()
            if talk.as_json:
                used = (cpu_s() - cpu_0) / (trio.current_time() - since)
                talk.event("stats", **state, cpu_s_per_s=round(used, 4))
            elif live is not None:
                live.update(table(state), refresh=True)


def table(state: dict[str, Any]) -> Table:
    """The live picture on a terminal."""
    out = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    title = escape(state["stream"]["title"])
    out.add_row(f"[bold red]●[/] [bold]{title}[/]", escape(state["detail"]))
    out.add_row(
        "upload", f"{state['copies']:.2f} copies of the stream, {size(state['totals']['uploaded'])}"
    )
    watching = sum(p["role"] == "viewer" for p in state["partners"])
    seeds = sum(p["role"] == "seed" for p in state["partners"])
    out.add_row("partners", f"{counted(watching, 'viewer')}, {counted(seeds, 'seed')}")
    for partner in state["partners"]:
        feeds = "".join("●" if s in partner["fed_by_me"] else "·" for s in range(4))
        out.add_row(
            f"[dim]{partner['id']}[/]",
            f"{partner['role']:7} {feeds}  ↑ {partner['up_kbps']:6.0f} kbit/s",
        )
    return out


def _show_ticket(talk: Talk, ticket: Ticket, title: str) -> None:
    talk.event(
        "ticket", ticket=str(ticket), title=title, stream=ticket.stream.hex(), pid=os.getpid()
    )
    if not talk.as_json:
        talk.say(f"[bold]{escape(title)}[/] is live. Give this ticket to your viewers:\n")
        click.echo(str(ticket))  # Data: on stdout, so that it can be piped.
        talk.say(
            "\nThey type [bold]p2pstream watch[/] and the ticket. Ctrl-C ends the broadcast.\n"
        )


def _finish(caster: Broadcaster, talk: Talk) -> None:
    state = caster.state()
    endpoint = caster.node.carrier.counters.endpoint
    talk.event(
        "summary", totals=state["totals"], stream_bytes=caster.stream_bytes,
        copies=state["copies"], bytes_out=endpoint.bytes_out, restarts=caster.restarts,
    )  # fmt: skip
    talk.say(
        f"broadcast {size(caster.stream_bytes)}, sent {size(state['totals']['uploaded'])} "
        f"({state['copies']:.2f} copies)"
    )
