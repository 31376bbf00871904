"""What `p2pstream bench` measures, in small."""

from __future__ import annotations

import json

import pytest
import trio
from click.testing import CliRunner

from p2pstream.cli import bench as command
from p2pstream.errors import Misbehaviour
from p2pstream.metrics import percentile
from p2pstream.net import bench
from p2pstream.net.bench import Setup, live_link
from p2pstream.stream.window import Window


def test_a_lossy_uplink_carries_live_video() -> None:
    journey = live_link("fast", loss=0.02, seconds=4)
    assert len(journey.delays_s) > 170
    assert percentile(journey.delays_s, 0.5) < 0.05
    assert percentile(journey.delays_s, 0.99) < 0.3
    assert live_link("fast", loss=0.02, bits_per_s=30e6, seconds=3).bytes_per_s > 1.2e6


def test_the_pieces_it_sends_are_real_ones() -> None:
    piece = bench._pieces(Setup(bits_per_s=6e6))
    window = Window()
    for number in range(20):
        bench._keep(window, piece(number))
    assert window.complete(0, 0)
    forged = piece(20)
    object.__setattr__(forged, "body", b"x" * len(forged.body))
    with pytest.raises(Misbehaviour):
        bench._keep(window, forged)


async def test_a_relay_between_processes() -> None:
    share = await trio.to_thread.run_sync(_relay)
    assert 0 < share < 2


def _relay() -> float:
    seconds, command.LIVE_S = command.LIVE_S, 0.3
    try:
        return command.pass_on(2, 6e6, "fast", whole=True)
    finally:
        command.LIVE_S = seconds


def test_a_result_has_the_keys_that_others_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "process", None)
    monkeypatch.setattr(command, "pass_on", lambda count, *_args, **_named: count / 100)
    monkeypatch.setattr(command, "bulk", None)

    def bulk(figures: command.Figures) -> None:
        for key in ("bulk_send_fast", "bulk_recv_fast", "bulk_send_stock", "bulk_recv_stock"):
            figures[key].append(1.0)

    monkeypatch.setitem(command.STEPS, "bulk", bulk)
    monkeypatch.setattr(command, "LINK_S", 0.5)
    result = CliRunner().invoke(command.command, ["--rounds", "1", "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said.keys() >= {
        "bulk_send_vs_stock", "bulk_recv_vs_stock", "relay3_vs_stock", "live8_cpu_vs_stock",
        "live8_cpu", "loss2_piece_delay_s_p99", "loss2_goodput_vs_stock", "full_stack_share",
    }  # fmt: skip
    assert "viewers at 4 Mbit/s" in command.verdict(said)
    assert command.table(said).row_count > 10
