"""What `check` says of the endpoints of others: the state and the remedy, and without a server what is wrong with an address."""

from __future__ import annotations

from checking import look, problems
from running import running

from mcp_endpoint.commands import check_dial
from mcp_endpoint.settings.schema import Config, DialSettings


def target(name: str, state: str, reason: str = "") -> dict[str, object]:
    since = "2026-11-26T12:00:00+00:00"
    return {"name": name, "host": "h.example", "endpoint": "home", "state": state, "since": since, "reason": reason, "reconnects": 0}


def test_each_target_is_told_and_a_dead_one_with_its_remedy() -> None:
    targets = [
        target("well", "connected"),
        target("new", "connecting"),
        target("away", "waiting", "无法连接 / cannot reach it"),
        target("refused", "refused", "令牌被拒绝 / the token was refused"),
        target("unset", "error", "环境变量 X 没有设置：请设置它 / the environment variable X is not set: set it"),
    ]
    well, new, away, refused, unset = check_dial.of_stats({"rooms": {"dial": {"targets": targets}}})
    assert [one.mark for one in (well, new, away, refused, unset)] == ["ok", "ok", "PROBLEM", "PROBLEM", "PROBLEM"]
    assert "well (h.example), endpoint home" in well.en
    assert "not connected to away (h.example) since 2026-11-26T12:00:00+00:00: cannot reach it" in away.en
    assert "automatically" in away.remedy_en
    assert refused.zh.endswith("令牌被拒绝")
    assert "[[dial]] url of refused," in refused.remedy_en
    assert unset.en == "not connected to unset (h.example): the environment variable X is not set"
    assert (unset.remedy_en, unset.remedy_zh) == ("set it, and restart the server", "请设置它，并重启服务器")
    assert list(check_dial.of_stats({})) == []


def test_without_a_server_an_address_that_cannot_be_used_is_told_and_nobody_is_dialled() -> None:
    good = DialSettings(name="good", url="wss://no-such.invalid/?token=${SET}")
    bad = DialSettings(name="bad", url="wss://no-such.invalid/?token=${NOT_SET}")
    wrong = DialSettings(name="wrong", url="http://no-such.invalid/")
    found, other = check_dial.of_file(Config(dial=(good, bad, wrong)), {"SET": "canary"})
    assert found.mark == other.mark == "PROBLEM"
    assert found.en == "not connected to bad: the environment variable NOT_SET is not set"
    assert found.remedy_en.startswith("set it where the server starts") and "put the right address" not in found.remedy_en
    assert "[[dial]] url of wrong," in other.remedy_en


async def test_check_tells_of_the_targets_of_a_running_server() -> None:
    async with running(Config(dial=(DialSettings(name="bad", url="wss://h/?token=${NO_SUCH_VARIABLE}"),))) as server:
        told = [one for one in problems(await look(server.port)) if "bad" in one.en]
    assert ["the environment variable NO_SUCH_VARIABLE is not set" in one.en for one in told] == [True]
