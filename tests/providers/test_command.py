"""A program is found before it is started, and gets the variables that are named for it and no secret of ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mcp_endpoint.errors import EndpointError
from mcp_endpoint.providers.command import Command, environment


def test_the_environment_is_an_allow_list_plus_what_is_named() -> None:
    ours = {"PATH": "/bin", "Path": "x", "LC_ALL": "C", "HOME": "/h", "API_KEY": "s", "AWS_SECRET": "s", "PYTHONPATH": "p"}
    assert environment(ours, {"API_KEY": "k"}) == {"PATH": "/bin", "Path": "x", "LC_ALL": "C", "HOME": "/h", "API_KEY": "k"}


def test_a_program_is_found_on_its_own_path_or_relative_to_its_folder(tmp_path: Path) -> None:
    name = os.path.basename(sys.executable)
    assert Command(name, env={"PATH": os.path.dirname(sys.executable)}).found() == os.path.abspath(sys.executable)
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert Command("./tool", cwd=str(tmp_path)).found() == str(tool)


@pytest.mark.parametrize("command", [Command("no-such-program", env={"PATH": "/bin"}), Command(sys.executable, cwd="/no/such/folder")])
def test_one_that_is_not_there_is_told_in_both_languages(command: Command) -> None:
    with pytest.raises(EndpointError) as caught:
        command.found()
    assert caught.value.en != caught.value.zh
