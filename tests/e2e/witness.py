"""A node of our own that joins a stream and says what its broadcaster signed.

    python -m tests.e2e.witness TICKET

One JSON line for each verified head, with the Merkle roots of its chunks, and for each init. The
swarm has checked the signatures, the epoch, and the stream's id against its root key by then.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from typing import Any

import trio

from p2pstream.access import Ticket, parse_ticket
from p2pstream.identity import NodeKey, secret_bytes
from p2pstream.node.node import Node
from p2pstream.swarm.messages import Role
from p2pstream.swarm.protocol import Config, InitReady, Swarm

LOOK_S = 0.25  # A window holds heads for 12 s.


def say(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


async def witness(ticket: Ticket) -> None:
    """Until killed."""
    node = Node(NodeKey(secret_bytes()), host="127.0.0.1", allow_private=True)
    seeds = [(seed.node, seed.address) for seed in ticket.seeds]
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        node.bootstrap(seeds)
        swarm = Swarm(
            ticket.stream, node.node_id, Role.VIEWER, roads=node.carrier, rng=node.rng,
            wall=node.wall, config=Config(copies=0),
        )  # fmt: skip
        driver = node.add_swarm(swarm, on_effect)
        for peer, address in seeds:
            swarm.learn(peer, [address], now=trio.current_time())
        driver.poke()
        said: set[int] = set()  # Heads may come in any order.
        while True:
            await trio.sleep(LOOK_S)
            for seq in set(swarm.window) - said:
                head = swarm.window.head(seq)
                assert head
                parts = [(p.rendition, p.size, p.root.hex()) for p in head.parts]
                say("head", seq=seq, key=head.key, end=head.end, parts=parts)
                said.add(seq)


def on_effect(effect: object) -> None:
    if isinstance(effect, InitReady):
        init = effect.init
        say("init", rendition=init.rendition, sha256=sha256(init.data).hexdigest())


if __name__ == "__main__":
    trio.run(witness, parse_ticket(sys.argv[1]))
