"""A core with a heartbeat, driven by trio in virtual time."""

from __future__ import annotations

from math import inf

import pytest
import trio
import trio.testing

from p2pstream.core import Happening, LinkDown, Send
from p2pstream.errors import BadMessage
from p2pstream.identity import NodeId
from p2pstream.net.drive import Driver

PEER = NodeId(b"p" * 32)
FAULT = LinkDown("fault")


class Heart:
    """Beats every ten seconds, and answers whatever it is told at once."""

    def __init__(self) -> None:
        self.next_beat = 10.0
        self.beats = 0
        self.outbox: list[object] = []

    def receive(self, peer: NodeId, message: Happening, *, now: float) -> None:
        assert peer == PEER
        self.outbox.append(f"{message} at {now:.0f}")
        if message == FAULT:
            raise BadMessage("fault")

    def wake(self, *, now: float) -> None:
        self.beats += 1
        while self.next_beat <= now:
            self.outbox.append(f"beat {self.next_beat:.0f}")
            self.next_beat += 10.0

    def wake_at(self) -> float:
        return self.next_beat

    def effects(self) -> list[object]:
        out, self.outbox = self.outbox, []
        return out


async def test_a_core_keeps_its_appointments_and_hears_its_peers(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    assert autojump_clock.rate == 0
    done: list[object] = []
    driver = Driver(Heart(), done.append)
    nursery.start_soon(driver.run)
    await trio.sleep(15)
    driver.tell(PEER, LinkDown("gone"))
    await trio.sleep(16)
    assert done == ["beat 10", "LinkDown(reason='gone') at 15", "beat 20", "beat 30"]


async def test_an_alarm_moved_by_hand_is_kept(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    assert autojump_clock.rate == 0
    heart, done = Heart(), list[object]()
    driver = Driver(heart, done.append)
    nursery.start_soon(driver.run)
    await trio.sleep(1)
    heart.next_beat = 3.0
    heart.outbox.append("poked")
    driver.poke()
    assert done == ["poked"]
    await trio.sleep(3)
    assert done == ["poked", "beat 3"]
    heart.next_beat = inf
    driver.poke()
    await trio.sleep(100)
    assert done == ["poked", "beat 3"]


async def test_a_core_that_is_always_late_is_woken_a_thousand_times_a_second_at_most(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    assert autojump_clock.rate == 0

    class Late(Heart):
        def wake_at(self) -> float:
            return -inf

    late = Late()
    driver = Driver(late, lambda _effect: None)
    nursery.start_soon(driver.run)
    for _ in range(2000):
        await trio.sleep(0.0005)
        driver.poke()  # Does not push the alarm away.
    assert 900 <= late.beats <= 1001


async def test_a_fault_of_a_peer_comes_back_to_who_told(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    assert autojump_clock.rate == 0
    done: list[object] = []
    driver = Driver(Heart(), done.append)
    nursery.start_soon(driver.run)
    with pytest.raises(BadMessage):
        driver.tell(PEER, FAULT)
    assert done == [f"{FAULT} at 0"]


async def test_effects_that_lead_back_to_the_core_are_performed_in_order() -> None:
    heart, done = Heart(), list[object]()

    def perform(effect: object) -> None:
        done.append(effect)
        if len(done) < 3:
            driver.tell(PEER, LinkDown(str(len(done))))

    driver = Driver(heart, perform)
    heart.outbox = ["first", Send(PEER, "message")]  # type: ignore[arg-type]
    driver.poke()
    assert [str(effect)[:22] for effect in done] == [
        "first",
        "Send(peer=70707070, me",
        "LinkDown(reason='1') a",
        "LinkDown(reason='2') a",
    ]
