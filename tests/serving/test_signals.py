"""signals: what asks a program to end, and what was asked to be ignored."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from mcp_endpoint.serving import signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def test_a_closed_terminal_asks_for_the_end_unless_it_was_to_be_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert signals.ending() == (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert signals.ending() == (signal.SIGINT, signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_where_no_loop_can_handle_signals_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert signals.ending() == ()


def test_only_a_person_or_a_service_manager_can_be_in_a_hurry() -> None:
    assert [signals.hurries(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == [True, True, False]


def test_a_second_hang_up_while_the_program_leaves_does_not_kill_it() -> None:
    async def life() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)
        signals.leaving()

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        asyncio.run(life())
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
