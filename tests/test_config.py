"""The configuration file: understood wholly or refused with a helpful word."""

from __future__ import annotations

import importlib
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.config import FILE_BYTES_MAX, defaults
from p2pstream.errors import BadConfig
from tests.suites import SUITES, naughty_strings, needs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def refused(file: Path, text: str, command: str = "watch") -> BadConfig:
    file.write_text(text)
    with pytest.raises(BadConfig) as caught:
        defaults(str(file), command)
    assert caught.value.exit_code == 6
    assert str(file) in str(caught.value)
    return caught.value


def test_each_command_reads_its_own_table(file: Path) -> None:
    file.write_text("""
        [broadcast]
        port = 4433
        seed = ["p2pstream://a"]
        loop = true
        [watch]
        http-port = 8080
        copies = 2.5
    """)

    assert defaults(str(file), "broadcast") == {
        "port": 4433, "seed": ["p2pstream://a"], "loop": True,
    }  # fmt: skip
    assert defaults(str(file), "watch") == {"http_port": 8080, "copies": 2.5}
    assert defaults(str(file), "seed") == {}


def test_what_the_file_says_counts_even_when_it_says_none(file: Path) -> None:
    """`copies = 0` means: give no upload. It must not silently become the default of 4."""
    file.write_text("[watch]\ncopies = 0.0\nport = 0\n[broadcast]\nloop = false\n")

    assert defaults(str(file), "watch") == {"copies": 0.0, "port": 0}
    assert defaults(str(file), "broadcast") == {"loop": False}


@pytest.mark.parametrize("command", ["broadcast", "watch", "seed"])
def test_every_node_can_be_told_to_yield(file: Path, command: str) -> None:
    """The key is a word of Python's, so its parameter is called otherwise."""
    file.write_text(f"[{command}]\nyield = true\n")

    ours = defaults(str(file), command)
    assert ours == {"yields": True}
    known = importlib.import_module(f"p2pstream.cli.{command}").command.params
    assert [option.opts for option in known if option.name in ours] == [["--yield"]]


def test_no_file_is_needed_in_the_usual_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert defaults(None, "watch") == {}

    (tmp_path / "p2pstream").mkdir()
    (tmp_path / "p2pstream" / "config.toml").write_text("[watch]\nport = 1\n")
    assert defaults(None, "watch") == {"port": 1}


def test_an_unknown_table_is_refused_with_the_nearest_name(file: Path) -> None:
    error = refused(file, "[wach]\nport = 1\n")

    assert "[wach]" in str(error)
    assert error.hint == "Did you mean watch?"


def test_an_unknown_key_is_refused_with_the_nearest_name(file: Path) -> None:
    error = refused(file, "[watch]\nhttp_port = 1\n")

    assert "watch.http_port" in str(error)
    assert error.hint == "Did you mean http-port?"


def test_a_key_like_no_other_is_refused_with_all_names(file: Path) -> None:
    error = refused(file, "[seed]\nqqq = 1\n", "seed")

    assert error.hint.startswith("Known are: advertise, bootstrap, copies, host, ")


def test_a_mistake_in_another_commands_table_is_one_too(file: Path) -> None:
    refused(file, "[seed]\nqqq = 1\n", "watch")


@pytest.mark.parametrize(
    "text",
    ["[watch]\nport = 'x'\n", "[watch]\nport = 1.5\n", "watch = 3\n", "watch = []\n",
     "[broadcast]\nseed = 'one'\n", "[broadcast]\nloop = 1\n"],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(file: Path, text: str) -> None:
    refused(file, text)


@pytest.mark.parametrize("text", ["[watch", "port = ", "\x00", "a = 1\na = 2\n", "x" * 10])
def test_what_is_not_toml_is_refused(file: Path, text: str) -> None:
    assert "not TOML" in str(refused(file, text))


def test_what_is_not_utf8_is_refused(file: Path) -> None:
    file.write_bytes(b"[watch]\nplayer = '\xff'\n")

    with pytest.raises(BadConfig, match="not TOML"):
        defaults(str(file), "watch")


def test_a_file_that_never_ends_is_refused(file: Path) -> None:
    refused(file, "# " + "x" * FILE_BYTES_MAX)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.toml"):
        with pytest.raises(BadConfig, match="cannot read") as caught:
            defaults(str(path), "watch")
        assert caught.value.hint


def test_deep_nesting_is_refused(file: Path) -> None:
    refused(file, "[watch]\nport = " + "[" * 5000 + "]" * 5000)


@needs("blns")
def test_naughty_strings_are_values_and_no_syntax(file: Path) -> None:
    """JSON's strings are TOML's basic strings, but for DEL and for what UTF-8 cannot say."""
    for text in naughty_strings():
        quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
        file.write_text(f"[watch]\nplayer = {quoted}\n")
        assert defaults(str(file), "watch") == {"player": text}


@needs("jsontestsuite")
def test_json_is_no_configuration(file: Path) -> None:
    """Nested 100,000 deep, in other encodings, cut short: refused, with one error."""
    for path in (SUITES / "jsontestsuite" / "test_parsing").iterdir():
        file.write_bytes(path.read_bytes())
        with suppress(BadConfig):
            assert defaults(str(file), "watch") == {}


@given(text=st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_bad_one(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    try:
        defaults(str(path), "watch")
    except BadConfig:
        return
