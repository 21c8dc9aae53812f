"""A program to start: its arguments, its working directory and its environment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from ..errors import EndpointError

INHERITED: Final = frozenset(
    (
        *("HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TEMP", "TERM", "TMP", "TMPDIR", "TZ", "USER"),
        *("APPDATA", "COMSPEC", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA", "PATHEXT", "PROCESSOR_ARCHITECTURE", "PROGRAMDATA"),
        *("PROGRAMFILES", "SYSTEMDRIVE", "SYSTEMROOT", "USERNAME", "USERPROFILE", "WINDIR"),
    )
)
"""Environment variables that every child gets: necessary for programs to start, no secrets. Others must be named."""
INHERITED_PREFIX: Final = "LC_"


def environment(ours: Mapping[str, str], named: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: the inherited variables of `ours`, overridden by `named`."""
    kept = {key: value for key, value in ours.items() if key.upper() in INHERITED or key.startswith(INHERITED_PREFIX)}
    return kept | dict(named)


class Command(msgspec.Struct, frozen=True):
    """A program with its arguments; never a shell command line."""

    program: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    """The complete environment (see `environment`)."""
    cwd: str | None = None
    """The working directory; None is ours."""

    def found(self) -> str:
        """The absolute path of the program.

        Raises EndpointError if the program or the folder does not exist.
        """
        if self.cwd is not None and not Path(self.cwd).is_dir():
            raise EndpointError(
                f"the folder {self.cwd!r} (cwd) does not exist; create it or correct the path",
                f"目录 {self.cwd!r}（cwd）不存在，请创建或改正路径",
            )
        # A program with a folder in its name is resolved relative to `cwd`, as the child itself would.
        program = self.program if os.path.dirname(self.program) == "" else os.path.join(self.cwd or "", self.program)
        path = shutil.which(program, path=self.env.get("PATH", os.defpath))
        if path is None:
            raise EndpointError(
                f"the program {self.program!r} was not found; install it, correct its name or give its full path",
                f"找不到程序 {self.program!r}，请安装、改正名称或写完整路径",
            )
        return os.path.abspath(path)
