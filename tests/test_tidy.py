"""The shape of the code, kept by a test rather than by a promise."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "p2pstream"
SOURCES = sorted(PACKAGE.rglob("*.py"))
WEB = sorted(path for path in PACKAGE.rglob("web/*") if path.is_file())

# A module may import from its own floor or from any floor below it.
FLOORS = [
    {"errors", "__init__"},  # The package itself is a version and a map of these floors.
    {"identity", "metrics"},
    {"wire", "core", "access"},
    {"stream"},
    {"dht", "swarm", "playback"},
    {"net", "media"},
    {"node", "config"},
    {"bench"},
    {"cli", "__main__"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
HANDS = {"net", "media", "node", "bench", "cli", "__main__"}  # May touch the outside world.
WORLD = {
    "aioquic", "asyncio", "av", "os", "secrets", "socket", "ssl", "subprocess", "threading",
    "time", "trio",
}  # fmt: skip
MAY = {("identity", "secrets")}  # The one place that makes secrets.

HOPELESS = {
    "an unbounded queue": re.compile(r"open_memory_channel\S*\((math\.)?inf\b"),
    "a bare except": re.compile(r"except\s*:"),
    "a shell": re.compile(r"shell\s*=\s*True"),
}
CODEC = PACKAGE / "wire" / "codec.py"  # The one place that parses msgpack from strangers.
LINE_MAX = 400  # Longer lines are minified: nobody has read them.

# Of other people's files: page scripts are ours, or they are not here.
LICENCES = re.compile(r"(?i)@license|copyright|SPDX-|\(MIT\)|MIT License|BSD License|/\*!")
REGISTRIES = [
    ".".join(words)
    for words in (
        ("pypi", "org"), ("files", "pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"),
        ("deb", "debian", "org"), ("archive", "ubuntu", "com"), ("crates", "io"),
    )
]  # fmt: skip

# Folders of tests for which p2pstream has no folder of that name.
OTHER_TESTS = {"world", "quic", "fuzz", "e2e", "simulations", "bootstrap"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    here = _part(path)
    assert here in FLOOR, f"{here} has no floor: give it one in docs/ARCHITECTURE.md and here"
    for module in _imports(path):
        if module.split(".")[0] != "p2pstream":
            continue
        there = module.split(".")[1] if "." in module else "__init__"
        assert FLOOR[there] <= FLOOR[here], f"{here} must not lean on {there}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_the_hands_touch_the_world(path: Path) -> None:
    here = _part(path)
    if here in HANDS:
        return
    touched = {module.split(".")[0] for module in _imports(path)} & WORLD
    assert not {name for name in touched if (here, name) not in MAY}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_hopeless_is_written(path: Path) -> None:
    text = path.read_text()
    for what, pattern in HOPELESS.items():
        assert not pattern.search(text), what
    assert not {"pickle", "marshal", "shelve"} & set(_imports(path))
    assert path == CODEC or "unpackb" not in text, "only wire/codec.py reads msgpack"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_what_others_use_says_what_it_is(path: Path) -> None:
    """Every module and public class, and every public function of more than one line."""
    tree = ast.parse(path.read_text())
    mute = [] if ast.get_docstring(tree) else ["the module"]
    mute += [node.name for node in _public(tree) if not ast.get_docstring(node)]
    assert not mute


@pytest.mark.parametrize("path", WEB, ids=name_of)
def test_the_page_is_our_own_and_readable(path: Path) -> None:
    text = path.read_text()
    assert not LICENCES.search(text), "a file of somebody else's: use a dependency instead"
    assert max(map(len, text.splitlines()), default=0) <= LINE_MAX


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the business of whoever installs them."""
    guilty = [
        name_of(path)
        for path in _tracked()
        if any(host in path.read_text(errors="replace") for host in REGISTRIES)
    ]
    assert not guilty


def test_tests_mirror_the_package() -> None:
    ours = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    for folder in (ROOT / "tests").iterdir():
        if any(folder.glob("test_*.py")):
            assert folder.name in ours | OTHER_TESTS


def test_one_file_a_module_in_the_pure_folders_of_tests() -> None:
    """`tests/x/test_y.py` is about `p2pstream/x/y.py`, or about all of `x`: then it says so."""
    for folder in ("wire", "stream"):
        modules = {path.stem for path in (PACKAGE / folder).glob("*.py")}
        for path in (ROOT / "tests" / folder).glob("test_*.py"):
            assert path.stem.removeprefix("test_") in modules, name_of(path)


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor"
            if node.module == "p2pstream":
                yield from (f"p2pstream.{alias.name}" for alias in node.names
                            if alias.name in FLOOR)  # fmt: skip
            yield node.module or ""


Named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _public(tree: ast.Module) -> Iterator[Named]:
    for node in tree.body:
        if isinstance(node, Named) and not node.name.startswith("_"):
            short = not isinstance(node, ast.ClassDef) and len(node.body) == 1
            if not short:
                yield node


def _tracked() -> list[Path]:
    git = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(git, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]
