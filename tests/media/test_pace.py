"""Real time, in a time of our own."""

from __future__ import annotations

from p2pstream.media.pace import ConstantRate, Pacer, SoundClock, Timeline


class World:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_nothing_goes_before_it_is_due() -> None:
    world = World()
    pacer = Pacer(lambda: world.now, world.sleep)
    for ticks in (0, 9000, 90_000):
        pacer.wait(ticks)

    assert world.now == 101.0


def test_a_stall_delays_what_follows_instead_of_rushing_it() -> None:
    world = World()
    pacer = Pacer(lambda: world.now, world.sleep)
    pacer.wait(0)
    world.now += 5
    pacer.wait(90_000)
    pacer.wait(180_000)

    assert (world.now, pacer.stalls) == (106.0, 1)


def test_a_backlog_from_before_the_start_goes_at_once() -> None:
    world = World()
    pacer = Pacer(lambda: world.now, world.sleep)
    pacer.begin(0, at=world.now - 2.5)
    assert pacer.wait(0) == 2.5
    assert pacer.wait(90_000) == 1.5
    pacer.wait(90_000 * 3)

    assert (world.now, pacer.stalls) == (100.5, 0)


def test_uneven_pictures_come_out_even() -> None:
    rate = ConstantRate(0, 3000)

    slots = [list(rate.slots(at)) for at in (0, 3100, 3200, 9100)]

    assert slots == [[0], [3000], [], [6000, 9000]]


def test_a_loop_and_a_jump_leave_no_hole() -> None:
    timeline = Timeline(500)
    first = [timeline.picture(at, 3000) for at in (9000, 12_000)]
    sound = timeline.sound(9500)
    timeline.seam()
    second = timeline.picture(9000, 3000)
    jumped = timeline.picture(9_000_000, 3000)

    assert (first, sound) == ([500, 3500], 1000)
    assert (second, jumped) == (6500, 9500)


def test_a_file_may_leave_out_pictures_that_do_not_change() -> None:
    timeline = Timeline(0, hole_max=90_000 * 60)

    assert [timeline.picture(at, 3000) for at in (0, 900_000, 0)] == [0, 900_000, 903_000]


def test_sound_is_moved_a_little_and_holes_are_told() -> None:
    clock = SoundClock(0, 100)
    clock.advance(1000)

    assert clock.gap(1100) == 0
    assert clock.gap(899) == -101
    assert clock.gap(1500) == 500
