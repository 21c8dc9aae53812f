"""Runs one command and ends its whole process group as soon as its owner closes a pipe or dies.

    python -I -S supervisor.py FD PATIENCE COMMAND ARGS…

FD is the read end of a pipe whose only write end belongs to the owner, who never writes to it. When the owner closes it, or dies in any
way (`kill -9` included: the kernel closes it then), the group gets SIGTERM and, PATIENCE seconds later, SIGKILL.
A signal to this program (SIGTERM, SIGINT, SIGHUP) has the same effect; a second one sends SIGKILL at once.
The command inherits this program's stdin, stdout and stderr; its exit status is passed on (128 + the signal's number for a death by
signal, 127 if it cannot be started). Processes that the command leaves in its group end with it.

Why a separate process: PR_SET_PDEATHSIG, the usual way, exists on Linux only, reaches the child but not its descendants, fires when the
*thread* that started it ends, and must be set between fork and exec, where Python code (`preexec_fn`) can deadlock in a program with
threads. A pipe has none of these problems, and because this program is the command's parent, the command is never unsupervised and no
reused process id can be hit. Only processes that leave the group by `setsid` escape.

POSIX only. It is run by its path and imports nothing of this package, so that it starts within milliseconds.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from types import FrameType

NOT_STARTED = 127
"""Exit status if the command cannot be started (the shell's convention)."""
BY_SIGNAL = 128
"""Added to the signal's number if the command died by a signal (the shell's convention)."""
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these, and ignored signals stay ignored across exec: reset them for the command."""


def _wake(_number: int, _frame: FrameType | None) -> None:
    """A handler that only has to exist: the number arrives through the wake-up pipe. (The command would inherit SIG_IGN.)"""


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # no process left; on macOS EPERM if only a zombie is left
        return


def _close_others(life: int) -> None:
    """Close inherited descriptors that this program is not meant to have.

    uvloop leaves the command's pipe ends open under their own numbers too; if the command inherited them, it could not be noticed that it
    has closed its output.
    """
    try:
        given = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:  # a chroot without /dev
        given = []
    for number in given:
        if number > 2 and number != life:
            try:
                os.close(number)
            except OSError:  # the descriptor of the listing itself
                continue


def run(life: int, patience: float, command: list[str]) -> int:
    """Run `command` until it exits or `life` (a file descriptor) is closed; returns the exit status."""
    os.set_inheritable(life, False)
    _close_others(life)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _wake)
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigdef=IGNORED_BY_PYTHON)
    except (OSError, ValueError) as error:
        print(f"{command[0]}: {error}", file=sys.stderr)
        return NOT_STARTED
    # The pipes belong to the command alone: their other ends must see when the command closes them.
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
    status = run(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
    sys.stderr.flush()
    os._exit(status)  # the interpreter's own end takes the handlers away, and a signal would then stand in the place of the status
