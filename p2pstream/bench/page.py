"""The page of `p2pstream bench --report`: one HTML file, its figures drawn here as SVG."""

from __future__ import annotations

from html import escape
from math import log10
from typing import Any

from p2pstream import __version__

Row = tuple[str, dict[str, str]]

COLOURS = {"fast": "#2f6fed", "whole": "#12a594", "stock": "#9aa5b4", "qh3": "#8e5bd9",
           "torrent": "#f2a33a"}  # fmt: skip
NAMES = {"fast": "ours", "whole": "ours, the whole node", "stock": "stock aioquic", "qh3": "qh3",
         "torrent": "uTP (libtorrent)"}  # fmt: skip
# What a figure is held against: the goals of the project, as factors or seconds.
GOALS = (
    ("bulk_send_vs_stock", "sending, against stock aioquic", "x", 3.5, True),
    ("bulk_recv_vs_stock", "receiving, against stock aioquic", "x", 3.5, True),
    ("bulk_send_vs_qh3", "sending, against qh3", "x", 0.65, True),
    ("bulk_recv_vs_qh3", "receiving, against qh3", "x", 0.65, True),
    ("relay3_vs_stock", "passing on to 3, against stock", "x", 3.0, True),
    ("full_stack_share", "the whole node, against bare QUIC", "x", 0.8, True),
    ("live8_cpu_vs_stock", "CPU of 6 Mbit/s to 8, against stock", "x", 0.5, False),
    ("live8_cpu", "a core's share for 6 Mbit/s to 8", "%", 0.12, False),
    ("loss2_piece_delay_s_p99", "99 % of pieces at 2 % loss", "s", 0.3, False),
    ("loss2_goodput_vs_stock", "goodput at 2 % loss, against stock", "x", 5.0, True),
)
DELAYS = (("loss0", "0 %"), ("loss0.5", "0.5 %"), ("loss2", "2 %"), ("loss5", "5 %"),
          ("reorder", "reordered"))  # fmt: skip
WIDTH, LEFT, BAR = 520, 190, 20  # Of a figure, in its own units.
DECADES = (-2, 1)  # Delays from 10 ms to 10 s.
CSS = """
:root { --ink:#1c2430; --soft:#6b7685; --line:#e3e8ee; --good:#0f8a6d; --bad:#c4611a; --bg:#f5f7fa }
* { box-sizing:border-box }
body { margin:0; background:var(--bg); color:var(--ink);
  font:15px/1.55 Inter,"Segoe UI",system-ui,-apple-system,Helvetica,sans-serif }
main { max-width:1080px; margin:0 auto; padding:40px 24px 64px }
h1 { margin:0 0 6px; font-size:30px; letter-spacing:-.02em; line-height:1.2 }
h2 { margin:40px 0 14px; font-size:19px }
h3 { margin:0 0 4px; font-size:14px }
.soft { color:var(--soft) }
.cards { display:grid; grid-template-columns:repeat(auto-fill,minmax(190px,1fr)); gap:14px }
.card,.panel { background:#fff; border:1px solid var(--line); border-radius:14px; padding:16px 18px;
  overflow-x:auto }
.card b { display:block; font-size:26px; letter-spacing:-.02em; line-height:1.25 }
.card span { font-size:13px; display:block } .card i { font-style:normal; font-size:12.5px }
.good i { color:var(--good) } .bad i { color:var(--bad) }
.two { display:grid; grid-template-columns:repeat(auto-fit,minmax(340px,1fr)); gap:14px }
svg { width:100%; max-width:640px; height:auto; display:block }
svg text { font-family:inherit; font-size:12px; fill:var(--ink) } svg .soft { fill:var(--soft) }
table { width:100%; border-collapse:collapse; font-size:14px }
th { text-align:right; color:var(--soft); font-weight:550; font-size:12.5px; padding:6px 10px }
td { padding:6px 10px; border-top:1px solid var(--line); text-align:right;
  font-variant-numeric:tabular-nums }
th:first-child, td:first-child { text-align:left; padding-left:0 }
code { background:#eef2f6; border-radius:6px; padding:2px 7px; font-size:13px }
"""


def page(result: dict[str, Any], verdict: str, rows: list[Row], rounds: int) -> str:
    """The whole page as text. result: of `cli.bench.summary`; rows: of its table."""
    medians = result["medians"]
    parts = [
        f"<h1>{escape(verdict)}</h1>",
        (f'<p class="soft">Medians of {rounds} interleaved round{"s" * (rounds != 1)}; p2pstream '
        f"{__version__}. Seconds are of processor time unless a word says otherwise.</p>"),
        f'<h2>Against the goals</h2><div class="cards">{_cards(result)}</div>',
        '<h2>What a second of one core carries</h2><div class="two">',
        _panel("Sending, MB", _bars(medians, "bulk_send_{}", "{:.0f}")),
        _panel("Receiving, MB", _bars(medians, "bulk_recv_{}", "{:.0f}")),
        _panel("Passing on to three, MB that come in", _bars(medians, "relay3_{}", "{:.1f}")),
        _panel("A stream of 6 Mbit/s to eight, share of a core",
               _bars(medians, "live8_cpu_{}", "{:.1%}")),
        "</div><h2>How late a piece of 6 Mbit/s is on a home's uplink</h2>",
        _panel("20 Mbit/s, 50 ms, in virtual time: from the median (dot) to 99 % (end), by loss",
               _delays(medians)),
        f'<h2>All of it</h2><div class="panel">{_table(rows)}</div>',
        (f"<p class='soft'>Once more: <code>p2pstream bench --rounds {rounds}</code>. Figures of a "
        "busy machine vary; ratios within one run vary less.</p>"),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>p2pstream bench'
        '</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _cards(result: dict[str, Any]) -> str:
    out = ""
    for key, words, unit, goal, more in GOALS:
        value = result[key]
        if value is None:
            continue
        good = value >= goal if more else value <= goal
        out += (
            f'<div class="card {"good" if good else "bad"}"><b>{_value(value, unit)}</b>'
            f"<span>{escape(words)}</span><i>goal: {'at least' if more else 'at most'} "
            f"{_value(goal, unit)}</i></div>"
        )
    return out


def _panel(title: str, figure: str) -> str:
    return f'<div class="panel"><h3>{escape(title)}</h3>{figure}</div>'


def _bars(medians: dict[str, float], key: str, form: str) -> str:
    """One bar for each that was measured."""
    found = [(name, medians[key.format(name)]) for name in NAMES if key.format(name) in medians]
    most = max(value for _, value in found) or 1.0
    lines = ""
    for nth, (name, value) in enumerate(found):
        top, length = 8 + nth * (BAR + 10), (WIDTH - LEFT - 60) * value / most
        lines += (
            f'<text class="soft" x="0" y="{top + 15}">{NAMES[name]}</text>'
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR}" rx="4" '
            f'fill="{COLOURS[name]}"/>'
            f'<text x="{LEFT + length + 8:.1f}" y="{top + 15}">{form.format(value)}</text>'
        )
    return _svg(8 + len(found) * (BAR + 10), lines)


def _delays(medians: dict[str, float]) -> str:
    """From median to 99 %, on a logarithmic scale."""
    low, high = DECADES
    height = 8 + len(DELAYS) * 36

    def across(seconds: float) -> float:
        share = (log10(max(seconds, 10**low)) - low) / (high - low)
        return LEFT + (WIDTH - LEFT - 20) * min(1.0, share)

    lines = ""
    for decade in range(low, high + 1):
        x = across(10**decade)
        lines += (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" stroke="#e3e8ee"/>'
            f'<text class="soft" x="{x:.1f}" y="{height + 16}" text-anchor="middle">'
            f"{10**decade:g} s</text>"
        )
    for nth, (key, words) in enumerate(DELAYS):
        lines += f'<text class="soft" x="0" y="{nth * 36 + 26}">{words}</text>'
        for side, name in enumerate(("fast", "stock")):
            y = nth * 36 + 15 + 13 * side
            start, end = (across(medians[f"delay_{p}_{name}_{key}"]) for p in ("p50", "p99"))
            lines += (
                f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{y}" y2="{y}" stroke-width="5" '
                f'stroke="{COLOURS[name]}" stroke-linecap="round"/>'
                f'<circle cx="{start:.1f}" cy="{y}" r="5.5" fill="{COLOURS[name]}"/>'
            )
    for nth, name in enumerate(("fast", "stock")):
        lines += (
            f'<circle cx="{60 * nth + 6}" cy="{height + 12}" r="5" fill="{COLOURS[name]}"/>'
            f'<text x="{60 * nth + 16}" y="{height + 16}">{NAMES[name].split()[0]}</text>'
        )
    return _svg(height + 24, lines)


def _svg(height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{content}</svg>'


def _table(rows: list[Row]) -> str:
    shown = [name for name in NAMES if any(name in found for _, found in rows)]
    head = "".join(f"<th>{NAMES[name]}</th>" for name in shown)
    body = "".join(
        f"<tr><td>{escape(what)}</td>"
        + "".join(f"<td>{escape(found.get(key, ''))}</td>" for key in [*shown, "ratio"])
        + "</tr>"
        for what, found in rows
    )
    return f"<table><tr><th></th>{head}<th>ours / stock</th></tr>{body}</table>"


def _value(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.1f} %"
    return f"{value:.2f} s" if unit == "s" else f"{value:.2f} x"
