"""The page around the figures: plain HTML and CSS in one file, readable by who was not there."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from p2pstream import __version__
from simulations.cells import Row
from simulations.compare import Change
from simulations.report import figures
from simulations.scenario import Scenario

CARDS = (
    ("viewers_playing", "viewers play", "", "at the end"),
    ("lag_s_p50", "lag, median", "s", "behind the camera"),
    ("lag_s_p99", "lag, 99 %", "s", "of all chunks"),
    ("startup_s_p95", "start-up, 95 %", "s", "until the first picture"),
    ("stall_ratio", "stalled", "%", "of the time"),
    ("continuity", "on time", "%", "of all chunks"),
    ("offload", "offload", "%", "not from the origin"),
    ("control_ratio", "overhead", "%", "of all bytes"),
)
CSS = """
:root { --ink:#1c2430; --soft:#6b7685; --line:#e3e8ee; --good:#0f8a6d; --bad:#d13438; --bg:#f5f7fa }
* { box-sizing:border-box }
body { margin:0; background:var(--bg); color:var(--ink);
  font:15px/1.55 Inter,"Segoe UI",system-ui,-apple-system,Helvetica,sans-serif }
main { max-width:1080px; margin:0 auto; padding:40px 24px 64px }
header { display:flex; gap:24px; align-items:flex-start; justify-content:space-between }
h1 { margin:0 0 6px; font-size:32px; letter-spacing:-.02em; line-height:1.15 }
h2 { margin:44px 0 14px; font-size:19px; letter-spacing:-.01em }
h3 { margin:0 0 4px; font-size:14px }
p { margin:0 0 8px } .soft { color:var(--soft) } small { color:var(--soft); font-size:12.5px }
.badge { flex:none; padding:8px 18px; border-radius:99px; color:#fff; font-weight:650 }
.good { background:var(--good) } .bad { background:var(--bad) }
.cards { display:grid; grid-template-columns:repeat(4,1fr); gap:14px; margin-top:26px }
.card,.panel { background:#fff; border:1px solid var(--line); border-radius:14px }
.card,.panel { padding:16px 18px }
.card b { display:block; font-size:27px; letter-spacing:-.02em; line-height:1.2; font-weight:680 }
.card span { font-size:13px; font-weight:600 }
.card i { font-style:normal; color:var(--soft); font-size:13px; font-weight:400 }
.two { display:grid; grid-template-columns:1fr 1fr; gap:14px } .panel { margin-bottom:14px }
.two .panel { margin:0 } .two + .two { margin-top:14px }
svg text { font-family:inherit !important }
svg { width:100%; height:auto; display:block; margin-top:8px }
table { width:100%; border-collapse:collapse; font-size:14px }
th { text-align:left; color:var(--soft); font-weight:550; font-size:12.5px; padding:6px 10px 6px 0 }
td { padding:6px 10px 6px 0; border-top:1px solid var(--line); vertical-align:top }
td.n, th.n { text-align:right; font-variant-numeric:tabular-nums }
.yes { color:var(--good) } .no { color:var(--bad); font-weight:650 }
code { background:#eef2f6; border-radius:6px; padding:2px 7px; font-size:13px;
  font-family:ui-monospace,"SF Mono",Menlo,Consolas,monospace; word-break:break-all }
@media (max-width:760px) { .cards { grid-template-columns:1fr 1fr }
  .two { grid-template-columns:1fr } header { flex-direction:column-reverse } }
@media print { body { background:#fff } .card,.panel { break-inside:avoid } }
"""


def write(
    path: Path, scenario: Scenario, rows: list[Row], summary: dict[str, Any], changes: list[Change]
) -> None:
    """Write the report of a run."""
    path.write_text(page(scenario, rows, summary, changes))


def page(
    scenario: Scenario, rows: list[Row], summary: dict[str, Any], changes: list[Change]
) -> str:
    """The whole page as text."""
    name = escape(scenario.name)
    parts = [
        _header(scenario, summary), _cards(summary), _time(scenario, rows), _figures(rows),
        _compared(changes), _verdicts(rows, summary), _classes(summary), _faults(rows[0]),
        _setting(scenario), _again(scenario, rows),
    ]  # fmt: skip
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name} - p2pstream '
        f'simulation</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _header(scenario: Scenario, summary: dict[str, Any]) -> str:
    hosts = sum(group.n for group in scenario.groups)
    passed = summary["passed"]
    rate = " + ".join(f"{rate / 1000:g}" for rate in scenario.stream.bitrates_kbps)
    return (
        f"<header><div><h1>{escape(scenario.name.replace('_', ' '))}</h1>"
        f"<p>{escape(scenario.purpose)}</p>"
        f'<p class="soft">{hosts} hosts · {rate} Mbit/s in chunks of '
        f"{scenario.stream.chunk_ms:g} ms · {scenario.duration_s:g} s of virtual time · "
        f"{_count(len(summary['seeds']), 'seed')} · tier {summary['tier']}: the real DHT and mesh "
        f"of every node</p></div>"
        f'<div class="badge {"good" if passed else "bad"}">{"passed" if passed else "failed"}</div>'
        f"</header>"
    )


def _cards(summary: dict[str, Any]) -> str:
    cards = []
    for name, words, unit, where in CARDS:
        what = where
        figure = summary["figures"][name]
        spread = f" <i>± {_value(figure['ci95'], unit)}</i>" if figure["ci95"] else ""
        value = _value(figure["mean"], unit)
        if name == "viewers_playing":
            value += f" <i>of {summary['figures']['viewers']['mean']:g}</i>"
        if name == "offload":
            what += f"; at most {100 * summary['figures']['offload_limit']['mean']:.1f} %"
        cards.append(
            f'<div class="card"><span>{words}</span><b>{value}</b>'
            f"<small>{what}{spread}</small></div>"
        )
    return f'<section class="cards">{"".join(cards)}</section>'


def _time(scenario: Scenario, rows: list[Row]) -> str:
    return (
        f'<h2>What happened</h2><div class="panel"><h3>Lag and viewers over time</h3>'
        f"<small>Seed {rows[0]['seed']}. Grey: warm-up, not measured. Red: faults.</small>"
        f"{figures.over_time(rows[0], scenario.measured_from_s)}</div>"
    )


def _figures(rows: list[Row]) -> str:
    first = rows[0]
    at_s = first["overlay"].get("at_s", 0.0)
    spread = ""
    if len(rows) > 1:
        spread = _panel("From seed to seed", "A dot a seed; the line is their mean.",
                        figures.seed_spread(rows))  # fmt: skip
    pairs = [
        _panel("How old chunks were", "One line a seed: the share that was no older.",
               figures.lag_cdf(rows)),
        _panel("Carried by others than the origin", f"Seed {first['seed']}, each second.",
               figures.offload_over_time(first)),
        _panel("Who gave how much", "After the warm-up, mean of each class.",
               figures.upload_by_class(first)),
        _panel("Who fed whom", f"At {at_s:g} s. Rings: feeds away from the origin. Thick: many "
               "of the four substreams.", figures.overlay(first)),
    ]  # fmt: skip
    two = "".join(f'<div class="two">{a}{b}</div>' for a, b in (pairs[:2], pairs[2:]))
    return f"{two}<div style='height:14px'></div>{spread}"


def _panel(title: str, words: str, svg: str) -> str:
    return f'<div class="panel"><h3>{title}</h3><small>{words}</small>{svg}</div>'


def _compared(changes: list[Change]) -> str:
    judged = [change for change in changes if change.verdict != "told"]
    if not judged:
        return ""
    colours = {"better": "yes", "worse": "no"}
    lines = "".join(
        f'<tr><td>{change.name}</td><td class="n">{change.old:g}</td><td class="n">{change.new:g}'
        f'</td><td class="n">{change.noise:g}</td>'
        f'<td class="{colours.get(change.verdict, "soft")}">{change.verdict}</td></tr>'
        for change in judged
    )
    return (
        '<h2>Against the baseline</h2><div class="panel"><table><tr><th>figure</th><th class="n">'
        'then</th><th class="n">now</th><th class="n">noise</th><th></th></tr>'
        f"{lines}</table></div>"
    )


def _verdicts(rows: list[Row], summary: dict[str, Any]) -> str:
    lines = []
    for nth, verdict in enumerate(rows[0]["verdicts"]):
        all_of_it = [row["verdicts"][nth] for row in rows]
        failed = [r["seed"] for r, v in zip(rows, all_of_it, strict=True) if not v["passed"]]
        worst = next((v for v in all_of_it if not v["passed"]), verdict)
        lines.append(_verdict(verdict["kind"], verdict["name"], failed, worst["detail"]))
    lines += [
        _verdict("sometimes", v["name"], [] if v["passed"] else summary["seeds"], v["detail"])
        for v in summary["sometimes"]
    ]
    return (
        '<h2>Verdicts</h2><div class="panel"><table><tr><th></th><th>kind</th><th>what must hold'
        f"</th><th>found</th></tr>{''.join(lines)}</table></div>"
    )


def _verdict(kind: str, name: str, failed: list[int], detail: str) -> str:
    mark = '<td class="no">✗</td>' if failed else '<td class="yes">✓</td>'
    seeds = f"seeds {', '.join(map(str, failed[:8]))}: " if failed else ""
    return (
        f'<tr>{mark}<td class="soft">{kind}</td><td>{escape(name)}</td>'
        f"<td>{escape(seeds + detail)}</td></tr>"
    )


def _classes(summary: dict[str, Any]) -> str:
    shown = (("peers", "hosts", ""), ("up_kbps", "uplink, kbit/s", ""),
             ("gave_copies", "gave, copies", ""),
             ("lag_s_p50", "lag, median", "s"), ("lag_s_p95", "lag, 95 %", "s"),
             ("stall_ratio", "stalled", "%"), ("continuity", "on time", "%"))  # fmt: skip
    head = "".join(f'<th class="n">{words}</th>' for _, words, _ in shown)
    lines = ""
    for group, found in summary["by_class"].items():
        watches = found["continuity"]["mean"] > 0
        cells = "".join(
            f'<td class="n">{_value(found[key]["mean"], unit) if watches or not unit else "-"}</td>'
            for key, _, unit in shown
        )
        lines += f"<tr><td>{escape(group)}</td>{cells}</tr>"
    return (
        f'<h2>By class</h2><div class="panel"><table><tr><th>class</th>{head}</tr>{lines}</table>'
        "</div>"
    )


def _faults(row: Row) -> str:
    if not row["faults"]:
        return ""
    lines = "".join(
        f'<tr><td>{escape(f["kind"])}</td><td class="n">{f["from_s"]:g} s</td>'
        f'<td class="n">{f["to_s"] - f["from_s"]:g} s</td>'
        f"<td>{f['touched']} {escape(f['unit'])}</td></tr>"
        for f in row["faults"]
    )
    return (
        '<h2>Faults</h2><div class="panel"><table><tr><th>kind</th><th class="n">at</th>'
        f'<th class="n">for</th><th>touched</th></tr>{lines}</table></div>'
    )


def _setting(scenario: Scenario) -> str:
    lines = "".join(
        f'<tr><td>{escape(g.name)}</td><td class="n">{g.n}</td><td>{g.role}</td>'
        f"<td>{escape(_law(g.up_kbps))}</td><td>{escape(_law(g.down_kbps))}</td>"
        f"<td>{escape(_law(g.rtt_ms))}</td><td>{100 * g.loss:g} %</td>"
        f"<td>{escape(_mix(g.nat))}</td><td>{g.behaviour}</td></tr>"
        for g in scenario.groups
    )
    return (
        '<h2>What was simulated</h2><div class="panel"><table><tr><th>group</th><th class="n">n'
        "</th><th>role</th><th>up, kbit/s</th><th>down, kbit/s</th><th>RTT, ms</th><th>loss</th>"
        f"<th>NAT</th><th>behaviour</th></tr>{lines}</table></div>"
    )


def _again(scenario: Scenario, rows: list[Row]) -> str:
    seeds = ",".join(str(row["seed"]) for row in rows)
    speed = sum(row["peer_s_per_cpu_s"] for row in rows) / len(rows)
    return (
        f'<h2>Once more</h2><div class="panel"><p><code>p2pstream simulate {escape(scenario.name)} '
        f"--seeds {seeds}</code></p><p class='soft'>The same version gives the same run: the trace "
        f"of seed {rows[0]['seed']} is <code>{rows[0]['trace_hash']}</code>. p2pstream "
        f"{__version__}; {speed:.0f} peer-seconds a CPU-second on the machine that ran it. "
        "docs/SIMULATION.md explains the figures.</p></div>"
    )


def _law(law: Any) -> str:
    if isinstance(law, (int, float)):
        return f"{law:g}"
    fields = {key: getattr(law, key) for key in law.__struct_fields__}
    told = ", ".join(f"{key} {value}" for key, value in fields.items() if value)
    return f"{law.__struct_config__.tag}: {told}"


def _mix(nat: dict[str, float] | str) -> str:
    if isinstance(nat, str):
        return nat
    return ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in nat.items())


def _value(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.2f}".rstrip("0").rstrip(".") + " %"
    return f"{value:.2f} s" if unit else f"{value:g}"


def _count(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
