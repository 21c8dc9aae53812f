"""Runs one command and ends its whole process group as soon as its owner lets go of a pipe.

    python -I -S supervisor.py FD PATIENCE COMMAND ARGS…

FD is the reading end of a pipe whose only writing end is the owner's and is never written to. When the owner closes it, or dies in
whatever way (`kill -9` included: the kernel closes it then), the group hears SIGTERM and, PATIENCE seconds later, SIGKILL.
A signal to this program (SIGTERM, SIGINT, SIGHUP) asks for the same; whoever asks a second time gets SIGKILL at once.
The command's stdin, stdout and stderr are the ones this program was given; its exit status is passed on (128 + the signal's number for
a death by signal, 127 when it cannot be started). Helpers the command leaves behind in its group end when it does.

Why a process of its own. PR_SET_PDEATHSIG, the usual way, exists on Linux only, reaches the child but not what the child has forked,
fires when the *thread* that started it ends, and must be set between fork and exec, where Python code (`preexec_fn`) can deadlock as soon
as there is a second thread. A pipe has none of these traps, and because this program is the command's parent, there is no moment in which
the command runs unwatched and no reused process number that could be hit by mistake. Out of reach stays who leaves the group by `setsid`.

POSIX only. It is run by its path and imports nothing of this package, so that it starts in milliseconds.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from types import FrameType

NOT_STARTED = 127
"""Exit status when the command cannot be started (the shell's convention)."""
BY_SIGNAL = 128
"""Added to the signal's number when the command died by one (the shell's convention)."""
HEARD = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these, and what is ignored stays ignored across exec: the command gets them back."""


def _wake(_number: int, _frame: FrameType | None) -> None:
    """A handler that only has to exist: the number arrives through the wake-up pipe. (SIG_IGN would be inherited by the command.)"""


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # nobody left; macOS says so with EPERM while only a zombie is left
        return


def _close_others(life: int) -> None:
    """Close what this program was given without being meant to have it.

    uvloop leaves it the command's ends of the pipes under their own numbers too; inherited further, they would hide that the command
    has closed its output.
    """
    try:
        given = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:  # a bare chroot
        given = []
    for number in given:
        if number > 2 and number != life:
            try:
                os.close(number)
            except OSError:  # the one that listed them
                continue


def run(life: int, patience: float, command: list[str]) -> int:
    """Starts `command`, stays until it ends or `life` (a file descriptor) hangs up; returns the exit status."""
    os.set_inheritable(life, False)
    _close_others(life)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in HEARD:
        signal.signal(number, _wake)
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigdef=IGNORED_BY_PYTHON)
    except (OSError, ValueError) as error:
        print(f"{command[0]}: {error}", file=sys.stderr)
        return NOT_STARTED
    # The pipes belong to the command alone: who reads or writes their other ends must see them close when it closes them.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)

    waiting = select.poll()
    waiting.register(woken, select.POLLIN)
    waiting.register(life, select.POLLIN)
    asked = 0
    until: float | None = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if asked > 1 or (until is not None and time.monotonic() >= until):
            _signal_group(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        if asked and until is None:
            until = time.monotonic() + patience
            _signal_group(child, signal.SIGTERM)
        for ready, _ in waiting.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000 + 1):
            if ready == life:
                waiting.unregister(life)
                asked += 1
            else:
                asked += sum(number != signal.SIGCHLD for number in os.read(woken, 512))
    _signal_group(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else BY_SIGNAL - code


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
