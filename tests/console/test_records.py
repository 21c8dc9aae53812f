"""What was recorded, on pages: lists with filters, a record whole, the timeline of a session."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from console import BEARER, PAGE, console
from recorded import NOW, call, recorded

from mcp_endpoint.console.records import ROWS, _facet, curl, facets_of, timeline
from mcp_endpoint.recorder.export import side_of
from mcp_endpoint.recorder.query import Reader, Summary
from mcp_endpoint.recorder.store import Record, Session, Store

SESSION = Session(id=7, kind="link", endpoint="kitchen", side="device", name="robot", began=NOW, ended=NOW + 9, code=1006, reason="cut")


async def test_a_list_has_a_hundred_rows_and_leads_to_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (_, visitor, writer):
        empty = await visitor.get("/console/records", headers=PAGE | BEARER)
        assert "Nothing has been said yet" in empty.text
        writer.write(*(call(number=number) for number in range(ROWS + 5)))
        told = (await visitor.get("/console/records.json", headers=BEARER)).json()
        assert [one["id"] for one in told["records"]] == list(range(ROWS + 5, 5, -1)) and told["older"] and told["newest"] == ROWS + 5
        page = await visitor.get("/console/records", headers=PAGE | BEARER)
        assert page.text.count('class="record"') == ROWS and len(page.content) < 90_000
        older = (await visitor.get("/console/records.json?before=6", headers=BEARER)).json()
        assert [one["id"] for one in older["records"]] == [5, 4, 3, 2, 1] and not older["older"]


async def test_a_filter_is_words_and_facets_lead_to_more_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (_, visitor, writer):
        writer.write(call("lamp"), call("fan", status="timeout"), call("fan", answer="北京"))
        for words, ids in (("tool:fan", [3, 2]), ("status:error", [2]), ("北京", [3]), ("tool:=fan -北京", [2]), ("endpoint:nowhere", [])):
            told = (await visitor.get("/console/records.json", params={"q": words}, headers=BEARER)).json()
            assert [one["id"] for one in told["records"]] == ids, words
        facets = (await visitor.get("/console/records.json", headers=BEARER)).json()["facets"]
        assert {one["value"]: (one["count"], one["q"]) for one in facets["tool"]} == {"fan": (2, "tool:=fan"), "lamp": (1, "tool:=lamp")}
        wrong = (await visitor.get("/console/records", params={"q": "tol:x"}, headers=PAGE | BEARER)).text
        assert "did you mean tool:" in wrong


def test_a_page_that_has_everything_is_counted_as_the_file_would_be(tmp_path: Path) -> None:
    store = Store(tmp_path / "records.db", 10**9, 365)
    store.save([call("lamp"), call("fan", status="timeout"), call("fan", endpoint=""), *(call(f"tool {number}") for number in range(30))])
    store.close()
    reader = Reader(tmp_path / "records.db")
    assert facets_of(reader.page().records) == reader.facets()
    reader.close()


def test_a_facet_that_is_chosen_leads_back_and_one_with_blanks_is_quoted() -> None:
    assert _facet("a", "tool", "x y", 1)["q"] == 'a tool:="x y"'
    chosen = _facet('a tool:="x y" b', "tool", "x y", 1)
    assert chosen["chosen"] and chosen["q"] == "a b"
    assert _facet("", "label", 'say "so"', 1)["q"] is None


async def test_a_record_shows_what_was_said_and_how_to_repeat_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (_, visitor, writer):
        number = writer.write(call("lamp", 3, session=7), sessions=[SESSION])
        told = (await visitor.get(f"/console/records/{number}.json", headers=BEARER)).json()
        assert json.loads(told["request"]["body"])["params"]["arguments"] == {"n": 3} and told["session_info"]["name"] == "robot"
        words = {one["id"]: one["text"] for one in told["copies"]}
        assert shlex.split(words["call"]) == ["mcp-endpoint", "call", "lamp", '{"n": 3}', "-e", "kitchen"]
        assert json.loads(words["message"])["method"] == "tools/call"
        page = (await visitor.get(f"/console/records/{number}", headers=PAGE | BEARER)).text
        assert "/console/sessions/7" in page and "/console/tools?endpoint=kitchen&amp;tool=lamp&amp;arguments=" in page
        for nothing in ("99", "x", "9" * 30, "-1"):
            assert (await visitor.get(f"/console/records/{nothing}", headers=PAGE | BEARER)).status_code == 404


async def test_an_exchange_shows_headers_and_pieces_and_is_copied_as_curl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (_, visitor, writer):
        request = side_of([b'{"model": "m"}'], [("Host", "api.example"), ("Authorization", "***~3fa9c2"), ("Content-Length", "14")])
        answer = side_of([b"data: 1\n\n", b"data: 2\n\n"], [("Content-Type", "text/event-stream")], [(0.1, 9), (0.2, 9)])
        number = writer.write(
            Record(
                at=NOW,
                ms=200.0,
                first_ms=100.0,
                kind="exchange",
                method="POST /v1/chat",
                model="m",
                code=200,
                request=request,
                answer=answer,
            )
        )
        told = (await visitor.get(f"/console/records/{number}.json", headers=BEARER)).json()
        assert told["answer"]["chunks"] == [[0.1, "data: 1\n\n"], [0.2, "data: 2\n\n"]]
        page = (await visitor.get(f"/console/records/{number}", headers=PAGE | BEARER)).text
        assert "***~3fa9c2" in page and "200 ms" in page
        (copied,) = told["copies"]
        assert shlex.split(copied["text"].replace("\\\n", "")) == [
            *("curl", "-X", "POST", "http://api.example/v1/chat", "-H", "Authorization: ***~3fa9c2", "--data-raw", '{"model": "m"}')
        ]


async def test_a_streamed_answer_is_one_message_and_a_model_is_no_tool_to_call_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"index": 0, "id": "t", "function": {"name": "get_weather", "arguments": "{}"}}
    deltas = [{"content": "It is "}, {"content": "sunny"}, {"tool_calls": [wanted]}]
    pieces = [b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() for delta in deltas]
    answer = side_of(pieces, [("Content-Type", "text/event-stream")], [(0.1 * number, len(piece)) for number, piece in enumerate(pieces)])
    request = side_of([b'{"model": "m", "stream": true}'], [("Host", "api.example")])
    kind, method = "exchange", "POST /gateway/openai/v1/chat/completions"
    async with recorded(tmp_path, monkeypatch) as (_, visitor, writer):
        number = writer.write(Record(at=NOW, kind=kind, method=method, model="m", tool="get_weather", request=request, answer=answer))
        told = (await visitor.get(f"/console/records/{number}.json", headers=BEARER)).json()
        assert told["message"]["choices"][0]["message"]["content"] == "It is sunny"
        assert (told["what"], told["call"]) == ("m → get_weather", None)
        page = (await visitor.get(f"/console/records/{number}", headers=PAGE | BEARER)).text
        assert "It is sunny" in page and "data: {" in page
        assert "m → get_weather" in page and "Call again" not in page and "http://api.example/gateway/openai/v1/chat/completions" in page
        listed = (await visitor.get("/console/records", headers=PAGE | BEARER)).text
        assert "m → get_weather" in listed


async def test_a_filter_that_is_not_understood_says_nothing_of_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (_, visitor, _):
        page = (await visitor.get("/console/records?q=ms:abc", headers=PAGE | BEARER)).text
        assert "write ms:500" in page and "No record matches" not in page


def test_a_curl_of_anything_is_one_command() -> None:
    words = shlex.split(curl("GET /a?b='c'&d", [("X", "a'b\"; rm -rf $HOME")], "").replace("\\\n", ""))
    assert words == ["curl", "-X", "GET", "http://HOST/a?b='c'&d", "-H", "X: a'b\"; rm -rf $HOME"]


async def test_a_session_has_its_records_in_their_order_with_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (_, visitor, writer):
        writer.write(call("lamp", 0, session=7), call("fan", 100, session=7, ms=None), call("fan", session=8), sessions=[SESSION])
        told = (await visitor.get("/console/sessions.json", headers=BEARER)).json()
        assert [(one["name"], one["records"]) for one in told["sessions"]] == [("robot", 2)]
        assert (await visitor.get("/console/sessions.json?endpoint=other", headers=BEARER)).json()["sessions"] == []
        one = (await visitor.get("/console/sessions/7.json", headers=BEARER)).json()
        assert [(record["what"], record["offset"]) for record in one["records"]] == [("lamp", 0), ("fan", 100)]
        page = (await visitor.get("/console/sessions/7", headers=PAGE | BEARER)).text
        assert page.count("<rect") == 3 and "robot" in page and "1006" in page  # one of them is the mark of the page
        assert (await visitor.get("/console/sessions/9", headers=PAGE | BEARER)).status_code == 404


def test_bars_stand_where_their_records_were() -> None:
    def at(moment: int, ms: float | None) -> Summary:
        nothing = dict.fromkeys(("first_ms", "session", "parent", "code", "tokens_in", "tokens_out", "cached"))
        texts = dict.fromkeys(("endpoint", "label", "method", "tool", "model", "trace"), "")
        return Summary(id=1, at=moment, ms=ms, kind="call", status="ok", size=0, truncated=False, **nothing, **texts)  # type: ignore[arg-type]

    bars = timeline([at(1_000, 500.0), at(1_500, 500.0), at(1_500, None)])
    assert [(bar["left"], bar["width"]) for bar in bars] == [(0.0, 500.0), (500.0, 500.0), (500.0, 4.0)]
    assert timeline([]) == []


async def test_a_file_that_is_damaged_or_gone_is_told_and_the_other_pages_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (_, visitor, writer):
        writer.damage()
        assert "damaged" in (await visitor.get("/console/records", headers=PAGE | BEARER)).text
        assert "damaged" in (await visitor.get("/console/sessions", headers=PAGE | BEARER)).text
        assert (await visitor.get("/console/records/1", headers=PAGE | BEARER)).status_code == 404
        writer.path.unlink()
        assert "there are no records yet" in (await visitor.get("/console/records", headers=PAGE | BEARER)).text
        assert (await visitor.get("/console/overview", headers=PAGE | BEARER)).status_code == 200


async def test_who_asks_while_the_server_stops_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (server, visitor, _):
        await visitor.get("/console/records", headers=BEARER)
        (room,) = (one for one in server._rooms if one.name == "console")
        await room.stop()
        told = (await visitor.get("/console/records.json", headers=BEARER)).json()
        assert told["problem"]["en"] == "the server is stopping" and not told["records"]


async def test_without_a_recorder_the_page_says_how_to_begin(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (_, visitor):
        page = (await visitor.get("/console/records", headers=PAGE | BEARER)).text
        assert "recorder.on=true" in page and "/console/sessions" not in page
        assert (await visitor.get("/console/live", headers=BEARER)).status_code == 404
