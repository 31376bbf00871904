"""`python -m tests.fuzz [TARGET ...] [--seconds S] [--messages M]`: all targets, or those named.

Each runs in a process of its own, until it has had so many seconds or so many messages. Inputs
that reached new code are kept in .cache/fuzz/ for the next time, and so is an input that crashes;
`python -m tests.fuzz TARGET --again FILE` runs that one alone.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# And what of the code under test is watched: what reads bytes. Watching triples the time of what is
# watched, and shows the fuzzer nothing where nobody looks at them.
TARGETS = {
    "codec": ["p2pstream"],
    "heads": ["p2pstream"],
    "tickets": ["p2pstream"],
    "certificates": ["p2pstream", "aioquic.tls"],
    "requests": [
        "h11._abnf", "h11._headers", "h11._readers", "p2pstream.node", "p2pstream.playback",
    ],
    "datagrams": [
        "aioquic.quic.connection", "p2pstream.net.fast", "p2pstream.net.frames",
        "p2pstream.net.inbox", "p2pstream.net.link", "p2pstream.net.short",
    ],
    "handshakes": [
        "aioquic.quic.packet", "aioquic.tls", "p2pstream.net.engine", "p2pstream.net.tls",
    ],
    "strangers": ["aioquic.quic.packet", "p2pstream.net.doorman", "p2pstream.net.endpoint"],
}  # fmt: skip
CACHE = Path(__file__).parents[2] / ".cache" / "fuzz"
INPUT_BYTES_MAX = 4096
# Processor time of one input, above which it is a crash: something grows faster than it should.
# Not libFuzzer's own timeout, which counts the time that a machine sleeps.
INPUT_S_MAX = 20
MEMORY_MIB_MAX = 1024  # Likewise.
TELL_S = 10.0  # Between two words of how far it is.


def main() -> int:
    """Fuzz; returns how many targets crashed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--messages", type=int, default=0, help="at most so many; 0: no limit")
    parser.add_argument("--again", type=Path, help="run this input alone")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if options.again:
        importlib.import_module(f"tests.fuzz.{options.targets[0]}").one(options.again.read_bytes())
        return 0
    if options.here:
        _fuzz(options.targets[0], options.seconds, options.messages)
    limits = ["--seconds", str(options.seconds), "--messages", str(options.messages)]
    command = [sys.executable, "-m", "tests.fuzz", "--here", *limits]
    print(f"{'':12}  messages    inputs  seconds", flush=True)
    crashed = 0
    for name in options.targets or TARGETS:
        ended = subprocess.run([*command, name], stdout=subprocess.PIPE, text=True, check=False)
        row = (ended.stdout.splitlines() or [""])[-1]
        crashed += ended.returncode != 0
        print(f"{name:12}{'  crashed' if ended.returncode else row}", flush=True)
    return crashed


def _fuzz(name: str, seconds: float, messages_max: int) -> None:
    """Does not return."""
    import atheris

    logging.disable(logging.ERROR)  # Strangers do little here but wrong.
    with atheris.instrument_imports(include=TARGETS[name]):
        target: Any = importlib.import_module(f"tests.fuzz.{name}")
    signal.signal(signal.SIGPROF, _stop)
    corpus = CACHE / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    began = time.perf_counter()
    runs = messages = 0
    told = 0.0

    def one(data: bytes) -> None:
        nonlocal runs, messages, told
        signal.setitimer(signal.ITIMER_PROF, INPUT_S_MAX)
        messages += target.one(data)
        runs += 1
        spent = time.perf_counter() - began
        if spent >= told + TELL_S:
            told = spent
            print(f"{name}: {messages} messages, {spent:.0f} s", file=sys.stderr, flush=True)
        if spent >= seconds or 0 < messages_max <= messages:
            print(f"{messages:10}{runs:10}{spent:9.0f}", flush=True)
            os._exit(0)  # libFuzzer knows no other way to end well.

    options = {
        "artifact_prefix": f"{CACHE / name}-",
        "len_control": 0,  # Long inputs from the start: a link costs more than what happens to it.
        "max_len": INPUT_BYTES_MAX,
        "timeout": 24 * 3600,
        "report_slow_units": 24 * 3600,
        "rss_limit_mb": MEMORY_MIB_MAX,
        "verbosity": 0,
    }
    atheris.Setup([name, *(f"-{key}={value}" for key, value in options.items()), str(corpus)], one)
    atheris.Fuzz()


def _stop(*_: object) -> None:
    raise TimeoutError(f"one input took more than {INPUT_S_MAX} s")


if __name__ == "__main__":
    sys.exit(main())
