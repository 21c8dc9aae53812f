"""The signals that ask one of our programs to end in an orderly way."""

from __future__ import annotations

import signal
import sys


def ending() -> tuple[signal.Signals, ...]:
    """SIGINT, SIGTERM and SIGHUP (the terminal is gone); SIGHUP not where it was ignored when we were started, as nohup does.

    Empty where a loop cannot handle signals (Windows).
    """
    if sys.platform == "win32":
        return ()
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hang_up)


def hurries(number: int) -> bool:
    """Whether this signal, as the second one, means: at once.

    SIGHUP does not: a terminal that closes and systemd's `SendSIGHUP=` send it beside another signal.
    """
    return number in (signal.SIGINT, signal.SIGTERM)
