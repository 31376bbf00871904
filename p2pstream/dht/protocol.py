"""The DHT: finds the nodes that have a stream, without a server. Kademlia, as a core.

Invariants: a contact enters the table only by proving its key at its address, in the handshake of
a link or by answering a query of ours; a record enters the store or a result only verified; what
was not asked for changes nothing but a counter; whatever strangers can make grow has a named limit.
Every alarm is computed from state, and every wake moves it on.

Kademlia: Maymounkov and Mazieres 2002. Asynchronous waves and time-outs scaled to the round trip:
Jimenez et al., P2P'11. Limits: security/architecture.md 5.4.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from math import inf
from typing import ClassVar

from p2pstream.core import Happening, LinkDown, LinkUp, Send
from p2pstream.dht.addresses import is_private, may_dial, subnet_huge, subnet_small
from p2pstream.dht.contact import Contact, WireContact
from p2pstream.dht.limits import Meter, Tokens
from p2pstream.dht.lookup import ALPHA_START, Candidate, Lookup
from p2pstream.dht.messages import (
    ANSWERS,
    CONTACTS_MAX,
    RECORDS_FIT,
    Announce,
    Answer,
    Denied,
    FindNode,
    FindProviders,
    Nodes,
    Ping,
    Pong,
    Providers,
    Query,
    Reason,
    Stored,
    fit_nodes,
    fit_providers,
)
from p2pstream.dht.queries import LINK_IDLE_S, Asking, Queries
from p2pstream.dht.records import (
    ADDRESSES_MAX,
    Forged,
    Record,
    Store,
    make_record,
    parse_record,
    read_record,
)
from p2pstream.dht.table import RICH, RoutingTable
from p2pstream.dht.tasks import (
    RETRY_S_MAX,
    RETRY_S_MIN,
    Config,
    Counters,
    Found,
    Goal,
    LookupDone,
    Provided,
    Provision,
    Task,
)
from p2pstream.errors import BadMessage, Misbehaviour
from p2pstream.identity import Address, NodeId, PublicKey, node_id

__all__ = ["Config", "Counters", "Dht", "Found", "LookupDone", "Provided"]

LOOKUPS_MAX = 32  # At a time. Wild guess: streams one node deals with, and its own upkeep.
PROVIDED_MAX = 64  # Keys we announce. The same guess, for a seed.
LEADS_MAX = 64  # Contacts we were told to start from: a ticket's seeds and remembered peers.
TRAILS_MAX = 8  # Look-ups that are over, but good to go on from. 2 MiB if all are full of lies.

QUERIES_PER_S, QUERIES_BURST = 10.0, 50.0  # security/architecture.md 5.4: per IP.
QUERIES_ALL_PER_S, QUERIES_ALL_BURST = 200.0, 400.0  # The same: in all; two seconds' worth.
PUTS_PER_S = 4 / 60  # The same: per node id.
# Enough for a node that starts to provide PUTS_BURST / 4 keys in a network that changes under it.
PUTS_BURST = 12.0

AGAIN_S = 1.0  # Who has proven itself a moment ago need not do so again. Wild guess.
PROBE_GAP_S = 10.0  # security/architecture.md 5.4: at most one liveness probe in 10 s.
PROBE_AGE_S = 300.0  # Wild guess: Kademlia's hour is too long for viewers, who stay for minutes.
REFRESH_GAP_S = 5.0  # Wild guess: between refreshes, so that joining is no burst.
# Longer than a node's pause between two finds, so that a renewal may follow one; and write tokens
# are good for five times as long.
TRAIL_S = 30.0
SWEEP_GAP_S = 10.0  # Wild guess: expired records are never told, only their memory waits.
REJOIN_S_MIN, REJOIN_S_MAX = 2.0, 60.0  # Wild guess: between tries to find anybody, doubling.


class Dht:
    """One node's part in the DHT. See `core.Core` for the four verbs.

    wall: turns the core's time into Unix seconds. token_secret: 32 secret bytes.
    """

    # Of more than 30 Python makes a dictionary, 1.6 kB each: a simulation has thousands.
    __slots__ = (
        "_all_askers", "_askers", "_config", "_effects", "_idle_at", "_joined", "_leads",
        "_lookups", "_probe_at", "_provisions", "_public", "_putters", "_queries",
        "_refresh_at", "_refreshed", "_rejoin_at", "_rejoin_s", "_rng", "_sign", "_store",
        "_sweep_at", "_table", "_tasks", "_tokens", "_trails", "_wall", "counters", "node",
        "serving",
    )  # fmt: skip

    def __init__(
        self,
        *,
        public: PublicKey,
        sign: Callable[[bytes], bytes],
        rng: random.Random,
        wall: Callable[[float], float],
        token_secret: bytes,
        config: Config | None = None,
    ) -> None:
        self.node = node_id(public)
        self.counters = Counters()
        self.serving = (config or Config()).serving
        self._config = config or Config()
        self._public, self._sign = public, sign
        self._rng, self._wall = rng, wall
        self._tokens = Tokens(token_secret)
        self._effects: list[object] = []
        self._table = RoutingTable(self.node)
        self._store = Store(rng)
        self._queries = Queries(rng, self._emit)
        self._leads: OrderedDict[NodeId, Contact] = OrderedDict()
        self._tasks: dict[int, Task] = {}
        self._lookups = 0
        self._trails: OrderedDict[bytes, Lookup] = OrderedDict()  # The last find of each key.
        self._provisions: dict[bytes, Provision] = {}
        self._refreshed: dict[int, float] = {}
        self._joined = False
        self._rejoin_s = REJOIN_S_MIN
        self._askers = Meter(per_s=QUERIES_PER_S, burst=QUERIES_BURST)
        self._all_askers = Meter(per_s=QUERIES_ALL_PER_S, burst=QUERIES_ALL_BURST)
        self._putters = Meter(per_s=PUTS_PER_S, burst=PUTS_BURST)
        self._probe_at = self._refresh_at = inf
        self._sweep_at = self._rejoin_at = self._idle_at = inf

    # What the node wants.

    def learn(self, contact: Contact, *, now: float) -> None:
        """A contact to start from: a ticket's seed, a peer remembered from last time."""
        if contact.node == self.node or not self._believes(contact.address):
            return
        self._leads[contact.node] = contact
        self._leads.move_to_end(contact.node)
        if len(self._leads) > LEADS_MAX:
            self._leads.popitem(last=False)
        self._kick(contact, now=now)

    def join(self, *, now: float) -> None:
        """Get known: look up our own id, and keep the table fresh from now on."""
        self._joined = True
        self._join(now=now)

    def find(self, key: bytes, *, now: float) -> int:
        """Look for providers of `key`. `Found` comes as they turn up, `LookupDone` at the end.

        Without any contact it waits for one. Returns the number that the effects carry.
        """
        task = self._open(Goal.FIND, key, now=now, patient=True)
        mine = self._store.some(key, self._config.records_wanted, wall_s=self._wall(now))
        self._surface(task, [read_record(data) for data in mine], hops=0, now=now)
        self._advance(task.number, now=now)
        return task.number

    def cancel(self, lookup: int) -> None:
        """Forget a `find`; no `LookupDone` comes."""
        self._tasks.pop(lookup, None)

    def provide(self, key: bytes, addresses: tuple[Address, ...], *, now: float) -> None:
        """Announce that we have `key`, at `addresses`, from now on. Again: at other addresses."""
        assert len(addresses) <= ADDRESSES_MAX, f"at most {ADDRESSES_MAX} addresses"
        known = self._provisions.get(key)
        assert known or len(self._provisions) < PROVIDED_MAX, "too many keys to provide"
        if known is not None:
            known.addresses, known.renew_at = addresses, -inf
            self._trails.pop(key, None)  # Its tokens were for who we were elsewhere.
            known.next_at = now if known.idle else known.next_at
        else:
            known = self._provisions[key] = Provision(key, addresses)
        if known.idle:
            self._publish(known, now=now)

    def withdraw(self, key: bytes) -> None:
        """Stop announcing `key`. Records already out expire by themselves."""
        self._provisions.pop(key, None)
        self._store.remove(key, self.node)

    def contacts(self) -> list[Contact]:
        """Contacts in good standing, to be remembered for the next start."""
        return [entry.contact for entry in self._table if not entry.doubtful]

    def __len__(self) -> int:
        """Records stored for others (and our own)."""
        return len(self._store)

    # The four verbs.

    def receive(self, peer: NodeId, happening: Happening, *, now: float) -> None:
        """Raises `BadMessage` or `Misbehaviour` when `peer` is at fault; nothing changed then."""
        hear = self._HEARS.get(type(happening))
        assert hear is not None, f"{type(happening).__name__} is not for the DHT"
        hear(self, peer, happening, now=now)

    def wake(self, *, now: float) -> None:
        late, dead = self._queries.overdue(now=now)
        self.counters.late += len(late)
        for asking in late:
            if asking.lookup in self._tasks:
                self._tasks[asking.lookup].lookup.slow(asking.node)
        for asking in dead:
            self._give_up(asking, now=now)
        for number in list(self._tasks):
            self._advance(number, now=now)
        for provision in list(self._provisions.values()):
            if now >= provision.next_at:
                self._publish(provision, now=now)
        self._keep_up(now=now)

    def wake_at(self) -> float:
        at = self._queries.wake_at()
        # Asked after all that happens, so without a call: `min` would cost more.
        if self._idle_at < at:
            at = self._idle_at
        if self._probe_at < at:
            at = self._probe_at
        if self._refresh_at < at:
            at = self._refresh_at
        if self._sweep_at < at:
            at = self._sweep_at
        if self._rejoin_at < at:
            at = self._rejoin_at
        for task in self._tasks.values():
            if task.lookup.deadline < at:
                at = task.lookup.deadline
        for provision in self._provisions.values():
            if provision.next_at < at:
                at = provision.next_at
        return at

    def effects(self) -> Iterable[object]:
        effects, self._effects = self._effects, []
        return effects

    # Links.

    def _on_link_up(self, peer: NodeId, link: LinkUp, *, now: float) -> None:
        self._queries.link_up(peer, link, now=now)
        if self._queries.ours:
            self._idle_at = min(self._idle_at, now + LINK_IDLE_S)
        # The handshake was the question: who is there? Whoever only asks says so when asked first.
        if self._table.lacks(Contact(peer, self._queries.links[peer].address)):
            self._alive(peer, now=now)

    def _on_link_down(self, peer: NodeId, _link: LinkDown, *, now: float) -> None:
        for asking in self._queries.link_down(peer):
            self._give_up(asking, now=now)
        if len(self._table) >= self._config.k:
            return
        # In a small network every holder counts: this one may have restarted with an empty store.
        for provision in self._provisions.values():
            if peer in provision.holders:
                provision.holders.discard(peer)
                self._trails.pop(provision.key, None)
                provision.retry_s = RETRY_S_MIN
                self._hurry(provision, now=now)

    # What others ask of us.

    def _on_query(self, peer: NodeId, query: Query, *, now: float) -> None:
        link = self._queries.links.get(peer)
        if link is None:
            return  # The link ended with this message still on its way up.
        host = link.address[0]
        answer = self._answer(peer, host, query, now=now)
        if isinstance(answer, Denied):
            self.counters.denied += 1
        else:
            self.counters.served += 1
        link.used_at = now
        self._emit(Send(peer, answer))

    def _answer(self, peer: NodeId, host: str, query: Query, *, now: float) -> Answer:
        if not self.serving:
            return Denied(query.rid, Reason.CLIENT)
        # Behind a private address are many nodes (a LAN, a demo), so there the node id counts.
        asker = peer if is_private(host) else host
        if not self._askers.take(asker, now=now) or not self._all_askers.take(None, now=now):
            return Denied(query.rid, Reason.BUSY)
        match query:
            case Ping():
                return Pong(query.rid)
            case FindNode():
                token = self._tokens.make(host, query.target, peer, now=now)
                return fit_nodes(query.rid, self._nearest(query.target, peer), token)
            case FindProviders():
                token = self._tokens.make(host, query.key, peer, now=now)
                records = self._store.some(query.key, RECORDS_FIT, wall_s=self._wall(now))
                return fit_providers(query.rid, records, self._nearest(query.key, peer), token)
            case Announce():
                reason = self._put(peer, host, query, now=now)
                return Stored(query.rid) if reason is None else Denied(query.rid, reason)

    def _nearest(self, target: bytes, asker: NodeId) -> list[WireContact]:
        return self._table.told(target, CONTACTS_MAX, besides=asker)

    def _put(self, peer: NodeId, host: str, query: Announce, *, now: float) -> Reason | None:
        # Cheapest checks first: a signature costs 0.1 ms.
        if not self._tokens.good(query.token, host, query.key, peer, now=now):
            return Reason.BAD_TOKEN
        if not self._putters.take(peer, now=now):
            return Reason.BUSY
        record = _verified(query.record, query.key)
        if record.node != peer:
            return Reason.NOT_YOURS
        reason = self._store.put(record, host, wall_s=self._wall(now))
        if reason is None:
            self.counters.records_stored += 1
            self._sweep_at = min(self._sweep_at, now + SWEEP_GAP_S)
        return reason

    # What we asked of others.

    def _on_answer(self, peer: NodeId, answer: Answer, *, now: float) -> None:
        asking = self._queries.match(peer, answer)
        if asking is None:
            self.counters.unsolicited += 1
            return
        task = self._tasks.get(asking.lookup) if asking.lookup is not None else None
        records = _verify(answer, task) if task is not None else []
        self._queries.close(asking, now=now)
        self.counters.answered += 1
        if isinstance(answer, Denied):
            self._on_denied(peer, asking, answer, now=now)
            return
        self._alive(peer, now=now)
        if task is not None and isinstance(answer, (Nodes, Providers)):
            self._on_way(task, peer, answer, records, now=now)
        if asking.key is not None:
            self._announced(asking.key, peer, stored=True, now=now)

    def _on_denied(self, peer: NodeId, asking: Asking, answer: Denied, *, now: float) -> None:
        self.counters.refused += 1
        if answer.reason == Reason.CLIENT:
            self._table.remove(peer)
        if asking.lookup in self._tasks:
            self._tasks[asking.lookup].lookup.failed(peer)
            self._advance(asking.lookup, now=now)
        if asking.key is not None:
            self._trails.pop(asking.key, None)  # Its token may be no good any more.
            self._announced(asking.key, peer, stored=False, now=now)

    def _on_way(
        self,
        task: Task,
        peer: NodeId,
        answer: Nodes | Providers,
        records: list[Record],
        *,
        now: float,
    ) -> None:
        task.lookup.answered(peer, answer.token)
        unheard = task.lookup.vouch(answer.contacts, source=peer)
        contacts = filter(self._usable, map(WireContact.contact, unheard))
        task.lookup.add(map(self._best, contacts), source=peer)
        candidate = task.lookup.candidate(peer)
        self._surface(task, records, hops=candidate.hops + 1 if candidate else 1, now=now)
        self._advance(task.number, now=now)

    def _give_up(self, asking: Asking, *, now: float) -> None:
        self.counters.dead += 1
        self._table.silent(asking.contact)
        if asking.lookup in self._tasks:
            self._tasks[asking.lookup].lookup.failed(asking.node)
            self._advance(asking.lookup, now=now)
        if asking.key is not None:
            self._announced(asking.key, asking.node, stored=False, now=now)
        if self._joined and self._rejoin_at == inf and self._table.lonely:
            self._rejoin_at = now + self._rejoin_s

    def _alive(self, peer: NodeId, *, now: float) -> None:
        """`peer` has proven that it is at the other end of its link."""
        contact, known = Contact(peer, self._queries.links[peer].address), self._table.entry(peer)
        if known is not None and known.contact == contact and now < known.heard_at + AGAIN_S:
            return
        if not self._believes(contact.address):
            return
        challenged = self._table.heard(contact, now=now)
        if challenged is not None and self._queries.room:
            self._ping(challenged, now=now)
        if known is None and peer in self._table:
            self._met(contact, now=now)

    def _met(self, contact: Contact, *, now: float) -> None:
        self._rejoin_at, self._rejoin_s = inf, REJOIN_S_MIN
        self._probe_at = min(self._probe_at, now + PROBE_GAP_S)
        self._kick(contact, now=now)
        for provision in self._provisions.values():
            if len(provision.holders) < self._config.replicas:
                self._hurry(provision, now=now)

    def _kick(self, contact: Contact, *, now: float) -> None:
        """Somebody to ask has turned up: wake what has been waiting for that."""
        for task in list(self._tasks.values()):
            if not task.lookup.answers:
                task.lookup.add([contact])
                self._advance(task.number, now=now)
        for provision in list(self._provisions.values()):
            if provision.idle and provision.next_at == inf:
                self._publish(provision, now=now)
        if self._joined and self._table.lonely:
            self._join(now=now)

    # Look-ups.

    def _open(self, goal: Goal, key: bytes, *, now: float, patient: bool) -> Task:
        """A look-up that starts with those we know nearest to `key`, and with leads at need."""
        self._lookups += 1
        self.counters.lookups += 1
        k, alpha = self._config.width(goal), self._config.alpha
        start = self._start(key)
        lookup = self._trail(key, now=now) if goal is Goal.PROVIDE else None
        if lookup is None:
            # Whom we have a link to is alive: no need to ask many at once.
            linked = sum(contact.node in self._queries.links for contact in start[:alpha])
            lookup = Lookup(
                NodeId(key), now=now, k=k, alpha=alpha, patient=patient,
                alpha_start=alpha if linked == alpha else ALPHA_START,
            )  # fmt: skip
        else:
            lookup.resume(now=now, k=k)
        lookup.add(start)
        task = Task(self._lookups, goal, lookup)
        if len(self._tasks) >= LOOKUPS_MAX:
            lookup.deadline = now  # Ends at once, with what the own store has.
        self._tasks[task.number] = task
        return task

    def _trail(self, key: bytes, *, now: float) -> Lookup | None:
        """The last `find` of `key`, to go on from where it got, if that was lately."""
        lookup = self._trails.pop(key, None)
        return lookup if lookup and now < lookup.started_at + TRAIL_S else None

    def _start(self, key: bytes) -> list[Contact]:
        near = self._table.closest(key, self._config.k)
        if len(near) < self._config.k:
            near += [lead for lead in self._leads.values() if lead.node not in self._table]
        return [self._best(contact) for contact in near or self._doubtful(key)]

    def _doubtful(self, key: bytes) -> list[Contact]:
        return self._table.closest(key, self._config.k, doubtful=True)

    def _advance(self, number: int, *, now: float) -> None:
        """Ask whom the look-up wants asked, or end it."""
        task = self._tasks.get(number)
        if task is None:
            return
        if self._has_enough(task) or task.lookup.over(now=now):
            del self._tasks[number]
            self._finish(task, now=now)
            return
        if self._queries.room < max(ALPHA_START, self._config.alpha):
            return  # `wake` comes back here when a query is late at the latest.
        kind = FindProviders if task.goal is Goal.FIND else FindNode
        query = partial(_find, kind, bytes(task.lookup.target))
        for contact in task.lookup.next():
            self.counters.asked += 1
            self._queries.ask(contact, query, now=now, lookup=number)

    def _has_enough(self, task: Task) -> bool:
        """Whether the look-up has served its purpose already."""
        if task.goal is Goal.FIND:
            return len(task.records) >= self._config.records_wanted
        if task.goal is Goal.REFRESH and task.lookup.answers >= self._config.width(task.goal):
            # A bucket's worth of answers will do, though they are not the nearest to its target.
            index, closest = self._table.index(task.lookup.target), task.lookup.closest()
            return bool(closest) and self._table.index(closest[-1].contact.node) == index
        return False

    def _finish(self, task: Task, *, now: float) -> None:
        match task.goal:
            case Goal.FIND:
                self._keep_trail(task.lookup)
                self._emit(_done(task, now=now))
            case Goal.PROVIDE:
                self._keep_trail(task.lookup)  # The next round asks only whom this one has not.
                self._announce(task, now=now)
            case Goal.JOIN:
                self._plan_refresh(task, now=now)
            case Goal.REFRESH:
                pass

    def _keep_trail(self, lookup: Lookup) -> None:
        key = bytes(lookup.target)
        self._trails[key] = lookup
        self._trails.move_to_end(key)
        if len(self._trails) > TRAILS_MAX:
            self._trails.popitem(last=False)

    def _surface(self, task: Task, records: list[Record], *, hops: int, now: float) -> None:
        news: list[Record] = []
        for record in records:
            task.seen.add(record.data)
            known = task.records.get(record.node)
            stale = record.expires <= self._wall(now) or (known and known.seq >= record.seq)
            if record.node != self.node and not stale:
                addresses = tuple(filter(self._believes, record.addresses))
                news.append(replace(record, addresses=addresses))
                task.records[record.node] = record
        if news:
            task.lookup.patient = False  # The late are waited for only while there is nothing.
            task.hops = hops if task.hops is None else task.hops
            self._emit(Found(task.number, bytes(task.lookup.target), tuple(news)))

    # Providing.

    def _publish(self, provision: Provision, *, now: float) -> None:
        """Start a round: find the nodes closest to the key that hold no copy yet."""
        if now >= provision.renew_at:
            self._renew(provision, now=now)
        provision.next_at = inf
        if not self._start(provision.key):
            return  # `_kick` comes back here when we know somebody.
        if len(self._tasks) >= LOOKUPS_MAX:
            provision.next_at = now + RETRY_S_MIN
            return
        provision.looking = True
        task = self._open(Goal.PROVIDE, provision.key, now=now, patient=False)
        self._advance(task.number, now=now)

    def _renew(self, provision: Provision, *, now: float) -> None:
        wall_s = self._wall(now)
        old_seq = provision.record.seq if provision.record else 0
        provision.record = make_record(
            provision.key,
            provision.addresses,
            expires=int(wall_s + self._config.record_life_s),
            # Grows even if we restart and forget what we said before.
            seq=max(old_seq + 1, int(wall_s * 1000)),
            public=self._public,
            sign=self._sign,
        )
        provision.holders.clear()
        provision.retry_s = RETRY_S_MIN
        # Not all nodes that started together should speak at the same time.
        provision.renew_at = now + self._config.republish_s * self._rng.uniform(0.9, 1.0)
        self._store.put(provision.record, "::1", wall_s=wall_s)
        self._sweep_at = min(self._sweep_at, now + SWEEP_GAP_S)

    def _announce(self, task: Task, *, now: float) -> None:
        provision = self._provisions.get(bytes(task.lookup.target))
        if provision is None or provision.record is None:
            return
        provision.looking = False
        lacking = [
            one for one in task.lookup.closest() if one.contact.node not in provision.holders
        ]
        wanted = max(0, self._config.replicas - len(provision.holders))
        for candidate in _spread(lacking, wanted, self._config.replicas_min):
            if not self._queries.room:
                break
            query = partial(_put, provision.key, candidate.token, provision.record.data)
            provision.waiting += 1
            self._queries.ask(self._best(candidate.contact), query, now=now, key=provision.key)
        if not provision.waiting:
            self._round_over(provision, now=now)

    def _announced(self, key: bytes, node: NodeId, *, stored: bool, now: float) -> None:
        provision = self._provisions.get(key)
        if provision is None or not provision.waiting:
            return
        provision.waiting -= 1
        if stored:
            provision.holders.add(node)
        if not provision.waiting:
            self._round_over(provision, now=now)

    def _round_over(self, provision: Provision, *, now: float) -> None:
        provision.round_at = now
        provision.next_at = provision.renew_at
        if len(provision.holders) < self._config.replicas_min:
            provision.next_at = min(provision.renew_at, now + provision.retry_s)
        provision.retry_s = min(RETRY_S_MAX, 2 * provision.retry_s)
        self._emit(Provided(provision.key, len(provision.holders)))

    def _hurry(self, provision: Provision, *, now: float) -> None:
        """There may be a new place for our record: do not wait for the next regular round."""
        if provision.idle:
            soon = max(now, provision.round_at + provision.retry_s)
            provision.next_at = min(provision.next_at, soon)

    # Upkeep.

    def _keep_up(self, *, now: float) -> None:
        if now >= self._idle_at:
            self._queries.hang_up_idle(now=now)
            self._idle_at = now + LINK_IDLE_S / 2 if self._queries.ours else inf
        if now >= self._probe_at:
            self._probe(now=now)
        if now >= self._refresh_at:
            self._refresh(now=now)
        if now >= self._sweep_at:
            self._store.expire(wall_s=self._wall(now))
            self._sweep_at = now + SWEEP_GAP_S if len(self._store) else inf
        if now >= self._rejoin_at:
            self._rejoin_s = min(REJOIN_S_MAX, 2 * self._rejoin_s)
            self._rejoin_at = now + self._rejoin_s
            self._join(now=now)

    @property
    def _joining(self) -> bool:
        return any(task.goal is Goal.JOIN for task in self._tasks.values())

    def _join(self, *, now: float) -> None:
        if not self._joining and self._start(self.node):
            task = self._open(Goal.JOIN, self.node, now=now, patient=False)
            self._advance(task.number, now=now)

    def _probe(self, *, now: float) -> None:
        stalest = self._table.stalest()
        self._probe_at = inf if stalest is None else now + PROBE_GAP_S
        if stalest and now >= stalest.heard_at + PROBE_AGE_S and self._queries.room:
            self._ping(stalest.contact, now=now)

    def _plan_refresh(self, task: Task, *, now: float) -> None:
        """After joining, fill the buckets that the way to ourselves has left poor (paper, 2.3).

        Whoever is nearer than the last of the closest is known already.
        """
        self._refresh_at = now + REFRESH_GAP_S * self._rng.random()
        closest = task.lookup.closest()
        everybody = len(closest) < self._config.width(Goal.JOIN)
        reach = 256 if everybody else self._table.index(closest[-1].contact.node)
        self._refreshed |= dict.fromkeys(range(reach + 1), now)

    def _refresh(self, *, now: float) -> None:
        """Look up some id in a bucket that has not been refreshed for long, the farthest first."""
        self._refresh_at = now + REFRESH_GAP_S
        sizes = self._table.sizes()
        nearest = min((index for index, size in sizes.items() if size), default=257)
        refresh_s = self._config.refresh_s
        due = [
            i for i in range(256, nearest, -1) if now >= self._refreshed.get(i, -inf) + refresh_s
        ]
        # Newcomers may have filled the bucket since we joined.
        rich = {i for i in due if sizes.get(i, 0) >= RICH}
        self._refreshed |= dict.fromkeys(rich - self._refreshed.keys(), now)
        poor = [i for i in due if now >= self._refreshed.get(i, -inf) + refresh_s]
        if not poor or len(self._tasks) >= LOOKUPS_MAX:
            return
        self._refreshed[poor[0]] = now
        task = self._open(Goal.REFRESH, self._somebody(poor[0]), now=now, patient=False)
        self._advance(task.number, now=now)

    def _somebody(self, index: int) -> NodeId:
        """A random id in the bucket of that number."""
        distance = 1 << (index - 1) | self._rng.getrandbits(index - 1)
        return NodeId((int.from_bytes(self.node) ^ distance).to_bytes(len(self.node)))

    def _ping(self, contact: Contact, *, now: float) -> None:
        self.counters.asked += 1
        self._queries.ask(contact, Ping, now=now)

    # Helpers.

    def _usable(self, contact: Contact) -> bool:
        return contact.node != self.node and self._believes(contact.address)

    def _believes(self, address: Address) -> bool:
        believed = may_dial(address, allow_private=self._config.allow_private)
        self.counters.bad_addresses += not believed
        return believed

    def _best(self, contact: Contact) -> Contact:
        """`contact` at the address we know from itself, not from hearsay, if we know one."""
        link = self._queries.links.get(contact.node)
        if link is not None:
            return Contact(contact.node, link.address)
        entry = self._table.entry(contact.node)
        return entry.contact if entry is not None else contact

    def _emit(self, effect: object) -> None:
        self._effects.append(effect)

    _HEARS: ClassVar[dict[type, Callable[..., None]]] = {
        LinkUp: _on_link_up,
        LinkDown: _on_link_down,
        **dict.fromkeys(ANSWERS, _on_query),
        **dict.fromkeys((*ANSWERS.values(), Denied), _on_answer),
    }


def _find(kind: type[FindNode | FindProviders], target: bytes, rid: int) -> Query:
    return kind(rid, target)


def _put(key: bytes, token: bytes, record: bytes, rid: int) -> Query:
    return Announce(rid, key, token, record)


def _done(task: Task, *, now: float) -> LookupDone:
    closest = task.lookup.closest()
    return LookupDone(
        lookup=task.number,
        key=bytes(task.lookup.target),
        found=len(task.records),
        queries=task.lookup.queries,
        hops=task.hops if task.hops is not None else max((one.hops for one in closest), default=0),
        seconds=now - task.lookup.started_at,
        closest=tuple(one.contact for one in closest),
    )


def _verify(answer: Answer, task: Task) -> list[Record]:
    """The records in an answer, checked, but for those the look-up has seen before."""
    if not isinstance(answer, Providers):
        return []
    key = bytes(task.lookup.target)
    return [_verified(data, key) for data in answer.records if data not in task.seen]


def _verified(data: bytes, key: bytes) -> Record:
    # Whoever passes on a record has checked it, or should have: the sender answers for it.
    try:
        record = parse_record(data)
    except Forged as error:
        raise Misbehaviour(str(error)) from None
    if record.key != key:
        raise BadMessage("record of another key than the message's")
    return record


def _spread(candidates: list[Candidate], count: int, floor: int) -> list[Candidate]:
    """The nearest `count` of no more than one per /24 and two per /16 (security 5.4).

    When that leaves fewer than `floor`, the nearest others fill up: a small network may well live
    in one data centre.
    """
    chosen: list[Candidate] = []
    small: set[bytes] = set()
    huge: list[bytes] = []
    for candidate in candidates[: 4 * count]:
        host = candidate.contact.address[0]
        near, far = subnet_small(host), subnet_huge(host)
        if len(chosen) < count and near not in small and huge.count(far or b"") < 2:
            chosen.append(candidate)
            small |= {near} if near else set()
            huge += [far] if far else []
    others = [candidate for candidate in candidates if candidate not in chosen]
    return chosen + others[: max(0, min(floor, count) - len(chosen))]
