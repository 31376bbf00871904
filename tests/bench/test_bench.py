"""What `p2pstream bench` measures, in small; about all of `p2pstream/bench` and its command."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from html.parser import HTMLParser
from math import nan
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from p2pstream.bench import others, page, path
from p2pstream.bench.pieces import epoch, pieces
from p2pstream.bench.telling import Setup
from p2pstream.cli import bench as command
from p2pstream.errors import UserError
from p2pstream.metrics import percentile
from p2pstream.stream import head as heads
from p2pstream.swarm import messages as m

MEDIANS = {
    "bulk_send_fast": 100.0, "bulk_send_stock": 25.0, "bulk_send_qh3": 125.0,
    "bulk_recv_fast": 120.0, "bulk_recv_stock": 30.0,
    "relay3_fast": 50.0, "relay3_stock": 10.0, "relay3_whole": 45.0,
    "live3_cpu_fast": 0.02, "live3_cpu_stock": 0.05, "live3_cpu_whole": 0.025,
    "live8_cpu_fast": 0.04, "live8_cpu_stock": 0.1, "live8_cpu_whole": 0.05,
    "goodput_fast_loss2": 2e6, "goodput_stock_loss2": 2e5, "fair_fast": 0.9, "fair_stock": 1.0,
    **{f"delay_{p}_{name}_{weather}": delay
       for p, delay in (("p50", 0.03), ("p99", 0.1)) for name in ("fast", "stock")
       for weather, _, _ in command.WEATHER},
}  # fmt: skip


def test_a_lossy_uplink_carries_live_video() -> None:
    way = path.live(True, bits_per_s=6e6, seconds=3, seed=1, loss=0.02)
    assert len(way.delays_s) > 130
    assert percentile(way.delays_s, 0.5) < 0.05
    assert percentile(way.delays_s, 0.99) < 0.3
    assert way.bytes_per_s == pytest.approx(6e6 / 8, rel=0.1)


def test_stock_is_late_there_and_what_never_came_counts() -> None:
    way = path.live(False, bits_per_s=6e6, seconds=3, seed=1, loss=0.02)
    assert len(way.delays_s) > 130
    assert percentile(way.delays_s, 0.99) > 1.0


def test_a_bottleneck_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "WARM_UP_S", 2.0)
    ours, reno = path.shares(seconds=2, seed=1)
    assert ours + reno == pytest.approx(2.0, rel=0.15)
    assert min(ours, reno) > 0.2


def test_the_pieces_it_sends_are_real_ones() -> None:
    """A relay with a swarm would hang up on anything else."""
    piece = pieces(Setup(bits_per_s=6e6))
    first, second = piece(0), piece(1)
    assert isinstance(first.header, m.Piece)
    head = heads.parse(first.header.head)
    head.verify(epoch(), wall_ms=head.captured_ms)
    assert isinstance(second.header, m.Piece)
    assert second.header.head == b""
    assert second.header.index == 1


async def test_a_relay_between_processes() -> None:
    def twice() -> list[dict[str, float]]:
        with command.relay(2, "whole", bytes=1_000_000) as pass_on:
            return [pass_on(), pass_on()]

    for cost in await trio.to_thread.run_sync(twice):
        assert 500_000 < cost["bytes"] < 1_100_000
        assert cost["cpu_s"] > 0


@pytest.mark.parametrize(("package", "column"), [("qh3", "qh3"), ("libtorrent", "torrent")])
def test_others_are_measured_where_they_are(
    package: str, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not others.installed(package):
        pytest.skip(f"not here: {package} is not installed (extra [bench])")
    monkeypatch.setattr(command, "BULK_BYTES", 2_000_000)
    figures: command.Figures = defaultdict(list)
    command.bulk(figures)
    for name in (column, "fast", "stock"):
        assert figures[f"bulk_send_{name}"][0] > 0
        assert figures[f"bulk_recv_{name}"][0] > 0


def test_a_result_has_the_keys_that_others_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measure(figures: command.Figures) -> None:
        for name, value in MEDIANS.items():
            figures[name].append(value)

    monkeypatch.setattr(command, "STEPS", {"all": measure})
    report = tmp_path / "bench.html"
    result = CliRunner().invoke(
        command.command, ["--rounds", "2", "--json", "--report", str(report)]
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said.keys() >= {
        "bulk_send_vs_stock", "bulk_recv_vs_stock", "bulk_send_vs_qh3", "relay3_vs_stock",
        "live8_cpu_vs_stock", "live8_cpu", "loss2_piece_delay_s_p99", "loss2_goodput_vs_stock",
        "full_stack_share",
    }  # fmt: skip
    assert said["bulk_send_vs_stock"] == 4.0
    assert said["relay3_vs_stock"] == 5.0
    assert said["full_stack_share"] == 0.9
    assert said["bulk_recv_vs_qh3"] is None  # Not measured.
    assert command.verdict(said) in report.read_text()


def test_ratios_are_those_of_one_round() -> None:
    """The machine is half as fast in the second round, and in the third only for us."""
    figures = {name: [value] * 3 for name, value in MEDIANS.items()}
    figures |= {"relay3_fast": [40.0, 20.0, 20.0], "relay3_whole": [36.0, 18.0, 36.0]}

    assert command.summary(figures)["full_stack_share"] == 0.9


def test_a_round_in_which_others_failed_is_no_pair() -> None:
    """The machine is half as fast in the second round, in which qh3 got stuck."""
    figures = {name: [value] * 3 for name, value in MEDIANS.items()}
    figures |= {"bulk_send_fast": [100.0, 50.0, 100.0], "bulk_send_qh3": [125.0, nan, 125.0]}

    result = command.summary(figures)

    assert result["bulk_send_vs_qh3"] == 0.8
    assert result["medians"]["bulk_send_qh3"] == 125.0


def test_who_fails_has_no_turns_any_more_unless_it_is_ours() -> None:
    turns: list[str] = []

    def take(name: str) -> int:
        turns.append(name)
        if name == "qh3" and len(turns) > 3:
            raise UserError("stuck")
        return len(turns)

    ways = {name: partial(take, name) for name in ("fast", "qh3")}
    assert command.in_turns(ways, 3) == {"fast": [3, 5, 6]}
    assert turns == ["qh3", "fast", "fast", "qh3", "fast", "fast"]
    with pytest.raises(UserError):
        command.in_turns({"fast": partial(take, "qh3")}, 1)


def test_the_table_has_a_column_for_each_that_was_measured() -> None:
    table = command.table(command.summary({name: [value] for name, value in MEDIANS.items()}))
    assert [str(column.header) for column in table.columns] == [
        "", "ours", "stock aioquic", "whole node", "qh3", "ours / stock",
    ]  # fmt: skip
    assert table.row_count > 10


class _Tags(HTMLParser):
    """Finds what is left open, and what would be fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag, attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    result: dict[str, Any] = command.summary({name: [value] for name, value in MEDIANS.items()})
    text = page.page(result, command.verdict(result), command.rows(result), 3)
    tags = _Tags()
    tags.feed(text)
    assert not tags.open
    assert tags.seen["svg"] == 5
    assert "http" not in text
    assert "at least 3.50 x" in text


def test_a_process_that_ends_early_is_said() -> None:
    with pytest.raises(UserError, match="ended early"), command.process("nothing") as worker:
        worker.hear()
