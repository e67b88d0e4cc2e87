"""Tests the reading of keys, on a real pseudo-terminal."""

from __future__ import annotations

import os
import pty
import sys
import termios
from collections.abc import Iterator

import pytest

from tbx_callbacks.monitor.keys import KeyReader, pressed_keys

SECONDS = 5.0


def never(seconds: float) -> None:
    raise AssertionError("the terminal has keys")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The two ends of a pseudo-terminal: the keyboard, and the input of the program."""
    keyboard, program = pty.openpty()
    yield keyboard, program
    os.close(keyboard)
    os.close(program)


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"jk", ["j", "k"]),
        (b"\x1b[A\x1b[B\x1b[Z\t", ["up", "down", "shift-tab", "tab"]),
        (b"\x1bOAq", ["up", "q"]),
        (b"\x1b[15~q", ["", "q"]),
        (b"\xc3\xa9q", ["q"]),
        (b"\x1bq", ["\x1b", "q"]),
    ],
)
def test_key_reader_names_keys(
    terminal: tuple[int, int], sent: bytes, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", os.fdopen(os.dup(terminal[1])))
    with sys.stdin, pressed_keys(never) as read:
        os.write(terminal[0], sent)
        assert read(SECONDS) == keys


def test_key_reader_waits_for_rest_of_sequence(terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", os.fdopen(os.dup(terminal[1])))
    with sys.stdin, pressed_keys(never) as read:
        os.write(terminal[0], b"j\x1b[")
        assert read(SECONDS) == ["j"]
        os.write(terminal[0], b"Bq")
        assert read(SECONDS) == ["down", "q"]
        assert read(0.0) == []


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_pressed_keys_terminal_restored(
    terminal: tuple[int, int], error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", os.fdopen(os.dup(terminal[1])))
    before = termios.tcgetattr(terminal[1])
    with sys.stdin:
        try:
            with pressed_keys(never):
                assert not termios.tcgetattr(terminal[1])[3] & (termios.ICANON | termios.ECHO)
                assert termios.tcgetattr(terminal[1])[3] & termios.ISIG  # Ctrl-C still interrupts
                if error is not None:
                    raise error
        except (RuntimeError, KeyboardInterrupt):
            pass
        assert termios.tcgetattr(terminal[1]) == before


def test_key_reader_at_end_of_input_waits() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"j")
    os.close(writing)
    waits: list[float] = []
    read = KeyReader(reading, waits.append)
    assert [read(SECONDS), read(SECONDS), read(3.0)] == [["j"], [], []]
    assert waits == [3.0]
    os.close(reading)


def test_pressed_keys_without_terminal_only_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    reading, writing = os.pipe()
    for stdin in (None, os.fdopen(reading)):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pressed_keys(waits.append) as read:
            assert read(2.0) == []
    assert waits == [2.0, 2.0]
    os.close(writing)
    stdin.close()  # type: ignore[union-attr]


def test_pressed_keys_without_termios_only_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "termios", None)  # as on Windows
    waits: list[float] = []
    with pressed_keys(waits.append) as read:
        assert read(2.0) == []
    assert waits == [2.0]
