"""The console's pages: each as HTML and as JSON, and only for whoever may see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from console import BEARER, OURS, PAGE, console, tool, toolbox
from running import KEY

from mcp_endpoint.access.directory import OPERATOR, KeyHolder, User
from mcp_endpoint.serving import rooms

PAGES = ("overview", "connect", "tools", "servers")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


async def test_every_page_has_a_json_twin_and_both_want_the_key(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        for page in PAGES:
            assert (await visitor.get(f"/console/{page}", headers=PAGE)).status_code == 401
            refused = await visitor.get(f"/console/{page}.json")
            assert refused.status_code == 401 and refused.json()["error"] == "not logged in"
            shown = await visitor.get(f"/console/{page}", headers=PAGE | BEARER)
            assert shown.status_code == 200 and "<h1>" in shown.text
            twin = await visitor.get(f"/console/{page}.json", headers=PAGE | BEARER)
            assert twin.headers["content-type"] == "application/json" and twin.json()
        assert (await visitor.get("/console", headers=PAGE | BEARER)).text == (await visitor.get("/console/", headers=PAGE | BEARER)).text


async def test_every_answer_forbids_foreign_resources_and_is_kept_nowhere(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        for path in ("/console", "/console/login", "/console/overview.json", "/console/nowhere", "/console/-/nowhere"):
            for headers in (PAGE, PAGE | BEARER):
                told = (await visitor.get(path, headers=headers)).headers
                assert told["content-security-policy"] == POLICY
                assert told["x-content-type-options"] == "nosniff" and told["referrer-policy"] == "no-referrer"
                assert told["cache-control"] == "no-store"


async def test_a_page_speaks_the_browsers_language_until_another_is_chosen(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        chinese = PAGE | {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.5"}
        assert 'lang="en"' in (await visitor.get("/console/login", headers=PAGE)).text
        assert 'lang="zh-CN"' in (await visitor.get("/console/login", headers=chinese)).text
        chosen = await visitor.post(
            "/console/language", data={"language": "en", "back": "/console/tools?endpoint=x"}, headers=chinese | OURS
        )
        assert chosen.status_code == 303 and chosen.headers["location"] == "/console/tools?endpoint=x"
        assert 'lang="en"' in (await visitor.get("/console/login", headers=chinese)).text
        foreign = await visitor.post("/console/language", data={"language": "zh"}, headers=chinese | {"Sec-Fetch-Site": "none"})
        assert foreign.status_code == 403


async def test_what_is_not_there_says_so_to_a_person_and_to_a_program(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        page = await visitor.get("/console/nowhere", headers=PAGE | BEARER)
        assert page.status_code == 404 and "There is no such page" in page.text
        assert (await visitor.get("/console/nowhere.json", headers=BEARER)).json()["error"] == "not found"
        assert (await visitor.get("/console/tools?endpoint=not%20a%20name", headers=PAGE | BEARER)).status_code == 404
        wrong = await visitor.put("/console/overview", headers=BEARER)
        assert wrong.status_code == 405 and wrong.headers["allow"] == "GET, HEAD"
        assert (await visitor.delete("/console/call", headers=BEARER)).headers["allow"] == "POST"
        assert (await visitor.head("/console/overview", headers=PAGE | BEARER)).status_code == 200


async def test_a_page_lets_its_forms_say_where_they_are_from(tmp_path: Path) -> None:
    """Under `no-referrer` alone a browser sends `Origin: null` with a form, and over plain http nothing else tells whose it is."""
    async with console(root=tmp_path) as (_, visitor):
        for path in ("/console/login", "/console/tools", "/console/nowhere"):
            assert '<meta name="referrer" content="same-origin">' in (await visitor.get(path, headers=PAGE | BEARER)).text


async def test_a_static_file_is_kept_by_browsers_at_an_address_of_its_content(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        page = (await visitor.get("/console/login", headers=PAGE)).text
        style = page.partition('rel="stylesheet" href="')[2].partition('"')[0]
        answer = await visitor.get(style)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/css")
        assert "immutable" in answer.headers["cache-control"]
        assert (await visitor.get("/console/-/../room.py")).status_code in (401, 404)
        assert (await visitor.get("/console/-/000000000000/console.css")).status_code == 404


class Viewers(KeyHolder):
    """A directory with rights: its user may look, and do nothing."""

    def may(self, user: User, action: str) -> bool:
        return action == "status.read"


async def test_what_a_user_may_not_do_is_neither_shown_nor_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rooms.open_rooms

    def opened(context: rooms.Context, standalone: str = "") -> list[rooms.Room]:
        return made(context._replace(directory=Viewers(KEY)), standalone)

    monkeypatch.setattr("mcp_endpoint.serving.server.open_rooms", opened)
    async with console(root=tmp_path) as (server, visitor), toolbox(server.port, [tool("lamp")]) as calls:
        page = (await visitor.get("/console/overview", headers=PAGE | BEARER)).text
        assert "/console/tools" in page and "/console/connect" not in page and "token=" not in page
        assert (await visitor.get("/console/connect", headers=PAGE | BEARER)).status_code == 403
        assert "/console/call" not in (await visitor.get("/console/tools?tool=lamp", headers=PAGE | BEARER)).text
        done = await visitor.post("/console/call", json={"endpoint": "single_module", "tool": "lamp"}, headers=BEARER)
        assert done.status_code == 403 and not calls
    assert KeyHolder(KEY).may(OPERATOR, "anything")
