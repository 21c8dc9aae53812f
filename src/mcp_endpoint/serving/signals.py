"""The signals that ask a program to end cleanly."""

from __future__ import annotations

import asyncio
import signal
import sys


def ending() -> tuple[signal.Signals, ...]:
    """SIGINT, SIGTERM and SIGHUP (terminal closed); not SIGHUP where it was ignored at the start, as with nohup.

    Empty where the event loop cannot handle signals (Windows).
    """
    if sys.platform == "win32":
        return ()
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hang_up)


def hurries(number: int) -> bool:
    """Whether this signal, if it is the second one, ends the waiting.

    SIGHUP does not: a closing terminal, or systemd with `SendSIGHUP=`, sends it together with another signal.
    """
    return number in (signal.SIGINT, signal.SIGTERM)


def leaving() -> None:
    """From now on SIGHUP is ignored: a shell that ends may send it again when the running loop, and with it its handlers, is gone."""
    for number in ending():
        if not hurries(number):
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
