"""The tools of one endpoint: what they are called, who answers, what the list says and how it is paged."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_endpoint.core.catalog import (
    LABELS,
    LONGEST_NAME,
    NAME_CHARS,
    NAMES_PER_TOOL,
    Catalog,
    clean_label,
    joined_name,
    read_page,
    read_tool,
)
from mcp_endpoint.protocol import jsonrpc
from mcp_endpoint.protocol.definitions import Tool

KIB = 1024


class Someone:
    """Stands in for a provider: the catalog asks only whether its last call timed out."""

    doubtful = False


def tool(name: str, description: str = "") -> Tool:
    made = read_tool(json.dumps({"name": name, "description": description, "inputSchema": {}}, ensure_ascii=False).encode())
    assert made is not None
    return made


def tools(*names: str) -> list[Tool]:
    return [tool(name) for name in names]


class CatalogPlay:
    """A catalog and who brought what, in order of attaching."""

    def __init__(self, limit: int = 512, page_bytes: int = 256 * KIB) -> None:
        self.catalog = Catalog(limit, page_bytes)
        self.attached = 0

    def comes(self) -> Any:
        self.attached += 1
        someone: Any = Someone()
        someone.order = self.attached
        return someone

    def brings(self, label: str, *what: str | Tool, who: Any = None) -> Any:
        who = who or self.comes()
        self.catalog.put(who, label, who.order, [one if isinstance(one, Tool) else tool(one) for one in what])
        return who

    def names(self) -> list[str]:
        return [definition["name"] for definition in self.list()]

    def list(self) -> list[Any]:
        found = []
        for number, page in enumerate(self.catalog.pages()):
            found += json.loads(page)
            assert json.loads(self.catalog.page(None, []))["tools"] == json.loads(self.catalog.pages()[0])
            assert number < len(self.catalog.pages())
        return found

    def answers(self, exported: str) -> list[Any]:
        """Who answers a call of that name, first choice first."""
        self.catalog.settle()
        return [shelf.provider for shelf in self.catalog.replicas(*self.catalog.owners[exported])]


# -- reading what a provider says --------------------------------------------------------------------------------------------


def test_a_page_gives_its_tools_as_they_were_described_and_its_cursor() -> None:
    first, second = b'{ "name" : "a", "x": 1.00 }', '{"title":"二","name":"b\\u4f60","annotations":{"name":"c"}}'.encode()
    page = read_page(b'{"tools":[%b , %b],"nextCursor":"n","other":[]}' % (first, second))
    assert page is not None
    (a, b), cursor = page
    assert (a.name, a.definition, cursor) == ("a", first, "n")
    assert (b.name, b.definition) == ("b你", second)
    assert a.definition[a.place.start : a.place.end] == b'"a"'
    assert b.definition[b.place.start : b.place.end] == b'"b\\u4f60"'


@pytest.mark.parametrize("text", [b'{"tools":[]}', b'{"tools":[],"nextCursor":null}', b'{"tools":[],"nextCursor":""}'])
def test_the_last_page_has_no_cursor(text: bytes) -> None:
    assert read_page(text) == ([], None)


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"{}", b'{"tools":null}', b'{"tools":{}}', b'{"tools":[],"nextCursor":5}', b'{"tools":%b' % (b"[" * 100_000)],
)
def test_what_is_no_page_is_none(text: bytes) -> None:
    assert read_page(text) is None


@pytest.mark.parametrize(
    "text",
    [
        b"5",
        b"null",
        b"[]",
        b"{}",
        b'{"name":null}',
        b'{"name":7}',
        b'{"name":["a"]}',
        b'{"name":""}',
        b'{"name":"a","name":"b"}',
        b'{"name":"a","x":1,"\\u0078":1}',
        b'{"name":"%b"}' % (b"n" * (LONGEST_NAME + 1)),
    ],
)
def test_a_tool_that_cannot_be_called_is_left_out_and_the_others_stay(text: bytes) -> None:
    assert read_tool(text) is None
    page = read_page(b'{"tools":[{"name":"a"},%b,{"name":"b"}]}' % text)
    assert page is not None
    assert [tool.name for tool in page[0]] == ["a", "b"]


def test_a_definition_nested_too_deep_is_left_out() -> None:
    assert read_tool(b'{"name":"a","x":%b}' % (b"[" * 100_000 + b"]" * 100_000)) is None


# -- labels ------------------------------------------------------------------------------------------------------------------


@pytest.mark.row("U17")
@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("calc", "calc"),
        ("a-b_C9", "a-b_C9"),
        ("my calc.py", "my_calc_py"),
        ("计算器", "___"),
        ("", ""),
        ("x" * 70, "x" * 64),
        ("a/😀", "a__"),
    ],
)
def test_a_label_keeps_to_the_alphabet_of_every_consumer(text: str, label: str) -> None:
    assert clean_label(text) == label


@pytest.mark.row("U11")
def test_the_label_is_the_server_id_else_the_servers_name_else_tool() -> None:
    catalog = Catalog(512, KIB)
    assert catalog.label_for("mine", "calc") == "mine"
    assert catalog.label_for("", "calc server") == "calc_server"
    assert catalog.label_for("", "") == "tool"
    assert catalog.label_for("tool", "calc") == "tool"


@pytest.mark.row("U12")
def test_one_server_id_has_one_label_and_two_never_share_one() -> None:
    """Also when they differ only in what a label cannot hold: different server_ids are never replicas (§3.2)."""
    catalog = Catalog(512, KIB)
    ids = ["my calc", "my_calc", "my.calc", "计算", "天气", "x" * 64, "x" * 65]
    labels = [catalog.label_for(server_id, "calc") for server_id in ids]
    assert len(set(labels)) == len(ids)
    assert labels[0] == "my_calc"
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", label) for label in labels)
    assert [catalog.label_for(server_id, "other") for server_id in ids] == labels


def test_server_ids_without_end_are_kept_apart_and_not_remembered() -> None:
    catalog = Catalog(512, KIB)
    assert [catalog.label_for(f"{n}", "") for n in range(LABELS)] == [f"{n}" for n in range(LABELS)]
    assert re.fullmatch(r"new_[0-9a-f]{6}", catalog.label_for("new", ""))
    assert catalog.label_for("new", "") == catalog.label_for("new", "") != catalog.label_for("new ", "")
    assert catalog.label_for("7", "") == "7"


# -- lasting names -----------------------------------------------------------------------------------------------------------


@pytest.mark.row("D4", "U11", "U17")
def test_the_first_owner_keeps_the_bare_name_and_the_second_gets_its_label_before_it() -> None:
    play = CatalogPlay()
    one, two = play.brings("calc", "add", "查询"), play.brings("weather", "add", "rain")
    assert play.names() == ["add", "查询", "weather__add", "rain"]
    assert play.answers("add") == play.answers("查询") == [one]
    assert play.answers("weather__add") == play.answers("rain") == [two]
    assert play.catalog.owners["weather__add"] == ("weather", "add")


def test_a_renamed_definition_keeps_every_other_byte() -> None:
    play = CatalogPlay()
    play.brings("a", "add")
    definition = '{ "title" : "加", "name" : "\\u0061dd" , "x": 1.00, "annotations":{"name":"add"}}'.encode()
    made = read_tool(definition)
    assert made is not None
    play.brings("b", made)
    assert definition.replace(b'"\\u0061dd"', b'"b__add"') in play.catalog.pages()[0]


@pytest.mark.row("U17")
def test_a_joined_name_is_at_most_64_characters_and_differs_where_the_wholes_differ() -> None:
    assert joined_name("weather", "add") == "weather__add"
    assert len(joined_name("l" * 30, "n" * 32)) == 64
    assert joined_name("l" * 30, "n" * 32) == "l" * 30 + "__" + "n" * 32
    long = [joined_name("l" * 64, "n" * n) for n in range(1, 50)] + [joined_name("l" * 30, "n" * 33), joined_name("天" * 70, "气")]
    assert len(set(long)) == len(long)
    assert all(len(name) == NAME_CHARS and re.search("_[0-9a-f]{6}$", name) for name in long)


def test_a_joined_name_that_somebody_bears_already_gets_a_digest() -> None:
    play = CatalogPlay()
    play.brings("a", "add", "b__add")
    two = play.brings("b", "add")
    names = play.names()
    assert names[:2] == ["add", "b__add"]
    assert re.fullmatch("b__add_[0-9a-f]{6}", names[2])
    assert play.answers(names[2]) == [two]


def test_a_tool_whose_every_name_is_taken_has_none_rather_than_somebody_elses() -> None:
    play = CatalogPlay()
    play.brings("a", "add", "b__add")
    play.brings("b", "add")
    taken = play.names()
    rude = CatalogPlay()
    one = rude.brings("a", *taken)
    rude.brings("b", "add", "own")
    assert rude.names() == [*taken, "own"]
    assert all(rude.answers(name) == [one] for name in taken)
    assert ("b", "add") not in rude.catalog.exported


@pytest.mark.row("D4")
def test_a_name_means_the_same_tool_until_the_end_also_when_its_owner_has_left() -> None:
    """Owner away: nobody answers under its name; never another server's tool (§3.2)."""
    play = CatalogPlay()
    one = play.brings("calc", "add")
    two = play.brings("weather", "add")
    assert play.names() == ["add", "weather__add"]
    play.catalog.leave(one, 10.0)
    assert play.answers("add") == []
    assert play.names() == ["add", "weather__add"]
    assert play.catalog.sweep(10.0)
    assert play.names() == ["weather__add"]
    assert play.answers("weather__add") == [two]
    three = play.brings("third", "add")
    assert play.names() == ["weather__add", "third__add"]
    back = play.brings("calc", "add")
    assert play.names() == ["weather__add", "third__add", "add"]
    assert play.answers("add") == [back]
    assert play.answers("third__add") == [three]


def test_a_provider_that_renames_its_tools_for_ever_comes_to_an_end() -> None:
    play = CatalogPlay(limit=2)
    who = play.comes()
    for n in range(3 * NAMES_PER_TOOL):
        play.brings("a", f"x{n}", f"y{n}", who=who)
        play.catalog.settle()
        play.catalog.called |= dict.fromkeys(play.catalog.owners)
    assert len(play.catalog.owners) == len(play.catalog.exported) == 2 * NAMES_PER_TOOL
    assert play.names() == [] and play.catalog.full
    play.brings("a", "x0", who=who)
    assert play.names() == ["x0"] and not play.catalog.full


def test_names_that_nobody_ever_called_are_given_anew_when_none_is_left() -> None:
    play = CatalogPlay(limit=2)
    who = play.comes()
    for n in range(NAMES_PER_TOOL):
        play.brings("a", f"x{n}", f"y{n}", who=who)
        play.catalog.settle()
    play.catalog.called |= {"x0": None}
    play.brings("a", "x1", "z", who=who)
    assert play.names() == ["x1", "z"] and not play.catalog.full
    assert list(play.catalog.owners) == ["x0", "x1", "z"]
    play.brings("b", "x0", "y0", who=who)
    assert play.names() == ["b__x0", "y0"], "what was called keeps its meaning, what never was is free"


def test_names_are_plain_while_one_label_owns_them_all_under_their_own_name() -> None:
    play = CatalogPlay()
    assert play.catalog.plain_for("a")
    play.brings("a", "add", "sub")
    assert play.catalog.plain_for("b")  # nobody has needed a name yet
    play.catalog.settle()
    assert play.catalog.plain_for("a")
    assert not play.catalog.plain_for("b")
    play.brings("b", "rain")
    play.catalog.settle()
    assert not play.catalog.plain_for("a")


def test_names_that_had_to_be_changed_are_not_plain() -> None:
    play = CatalogPlay()
    one = play.brings("a", "add")
    play.brings("b", "add")
    play.catalog.settle()
    play.catalog.leave(one, 0.0)
    play.catalog.sweep(0.0)
    assert not play.catalog.plain_for("b")


# -- replicas ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row("D3", "U12")
def test_of_replicas_the_newest_answers_and_the_older_resumes_when_it_leaves() -> None:
    """A tool that reconnects before its old link is reaped is there at once, and the old link's end does not take it away."""
    play = CatalogPlay()
    old = play.brings("calc", "add")
    new = play.brings("calc", "add")
    assert play.names() == ["add"]
    assert play.answers("add") == [new, old]
    play.catalog.leave(new, 0.0)
    assert play.answers("add") == [old]
    again = play.brings("calc", "add")
    play.catalog.leave(old, 0.0)
    assert play.answers("add") == [again]
    assert play.names() == ["add"]


@pytest.mark.row("U14")
def test_a_replica_whose_last_call_timed_out_is_second_choice() -> None:
    play = CatalogPlay()
    old, new = play.brings("calc", "add"), play.brings("calc", "add")
    new.doubtful = True
    assert play.answers("add") == [old, new]
    old.doubtful = True
    assert play.answers("add") == [new, old]
    new.doubtful = False
    assert play.answers("add") == [new, old]
    play.catalog.leave(old, 0.0)
    new.doubtful = True
    assert play.answers("add") == [new]


@pytest.mark.row("U14")
def test_another_definition_is_a_fall_back_also_when_the_newest_is_in_doubt() -> None:
    """Same label, another definition: the newest wins the name (§3.2), and a doubt does not change what the name means."""
    play = CatalogPlay()
    other = play.brings("calc", tool("add", "other"))
    same, new = play.brings("calc", tool("add")), play.brings("calc", tool("add"))
    assert play.answers("add") == [new, same, other]
    new.doubtful = True
    assert play.answers("add") == [same, new, other]
    same.doubtful = True
    assert play.answers("add") == [new, same, other]
    play.catalog.leave(same, 0.0)
    play.catalog.leave(new, 0.0)
    assert play.answers("add") == [other]


def test_the_newest_that_has_not_left_describes_the_tool_at_its_old_place() -> None:
    play = CatalogPlay()
    old = play.brings("calc", tool("add", "old"), "sub")
    middle = play.brings("calc", tool("add", "middle"))
    new = play.brings("calc", tool("add", "new"))

    def described() -> list[str]:
        assert play.names() == ["add", "sub"]
        return [definition["description"] for definition in play.list()]

    assert described() == ["new", ""]
    play.catalog.leave(new, 0.0)
    assert described() == ["middle", ""]
    play.catalog.leave(old, 0.0)
    assert described() == ["middle", ""]
    play.catalog.leave(middle, 0.0)
    assert described() == ["new", ""]


def test_replicas_may_have_different_tools() -> None:
    play = CatalogPlay()
    old, new = play.brings("calc", "add", "sub"), play.brings("calc", "add", "mul")
    assert play.names() == ["add", "sub", "mul"]
    assert (play.answers("sub"), play.answers("mul")) == ([old], [new])


# -- coming, changing, leaving -----------------------------------------------------------------------------------------------


def test_what_a_provider_brings_anew_takes_the_place_of_what_it_brought_before() -> None:
    play = CatalogPlay()
    who = play.brings("calc", "add", "sub")
    play.brings("weather", "rain")
    play.brings("calc", "sub", "mul", who=who)
    assert play.names() == ["sub", "mul", "rain"]
    shelf = play.catalog.shelf_of(who)
    assert shelf is not None
    assert list(shelf.tools) == ["sub", "mul"]
    assert play.catalog.shelf_of(play.comes()) is None


def test_a_shelf_that_was_left_makes_room_for_the_same_label_only() -> None:
    play = CatalogPlay()
    calc, rain = play.brings("calc", "add", "sub"), play.brings("weather", "rain")
    play.catalog.leave(calc, 0.0)
    play.catalog.leave(rain, 0.0)
    play.brings("calc", "add")
    assert play.names() == ["rain", "add"]


def test_a_shelf_stays_until_it_is_swept() -> None:
    play = CatalogPlay()
    one, two = play.brings("a", "x"), play.brings("b", "y")
    play.catalog.leave(one, 5.0)
    play.catalog.leave(two, 7.0)
    play.catalog.leave(play.comes(), 8.0)
    assert not play.catalog.sweep(4.9)
    assert play.names() == ["x", "y"]
    assert play.catalog.sweep(5.0)
    assert play.names() == ["y"]
    assert play.catalog.sweep(8.0)
    assert play.names() == []
    assert not play.catalog.sweep(9.0)
    assert not play.catalog.shelves


# -- bounds ------------------------------------------------------------------------------------------------------------------


def test_tools_beyond_the_limit_are_left_out_and_counted() -> None:
    play = CatalogPlay(limit=3)
    first, second = play.comes(), play.comes()
    assert play.catalog.put(first, "a", 1, tools("p", "q")) == 0
    assert play.catalog.put(second, "b", 2, tools("r", "s", "t", "s")) == 2
    assert play.names() == ["p", "q", "r"]
    assert play.catalog.put(first, "a", 1, tools("p", "q", "u")) == 1
    assert play.catalog.put(first, "a", 1, tools("p")) == 0
    assert play.catalog.put(second, "b", 2, tools("r", "s", "t")) == 1
    assert play.names() == ["p", "r", "s"]


def test_replicas_and_those_who_left_take_no_room() -> None:
    """A tool that comes back while its old link still hangs brings all it had."""
    play = CatalogPlay(limit=3)
    old, new = play.comes(), play.comes()
    assert play.catalog.put(old, "a", 1, tools("x", "y", "z")) == 0
    assert play.catalog.put(new, "a", 2, tools("x", "y", "z", "more")) == 1
    play.catalog.leave(old, 0.0)
    assert play.names() == ["x", "y", "z"]
    play.catalog.leave(new, 0.0)
    assert play.catalog.put(play.comes(), "b", 3, tools("u", "v", "w")) == 0


def test_what_is_replaced_takes_no_room() -> None:
    play = CatalogPlay(limit=3)
    who = play.brings("a", "p", "q", "r")
    assert play.catalog.put(who, "a", 1, tools("x", "y", "z", "more")) == 1
    assert play.names() == ["x", "y", "z"]


def test_a_name_that_stands_twice_in_one_list_is_one_tool() -> None:
    play = CatalogPlay(limit=1)
    assert play.catalog.put(play.comes(), "a", 1, [tool("x", "first"), tool("x", "second")]) == 0
    assert [definition["description"] for definition in play.list()] == ["second"]


def test_a_tool_larger_than_a_page_is_left_out() -> None:
    """A page with it would never reach a device, and the list would end there."""
    play = CatalogPlay(page_bytes=KIB)
    assert play.catalog.put(play.comes(), "a", 1, [tool("x"), tool("huge", "x" * KIB), tool("y")]) == 1
    assert play.names() == ["x", "y"]


# -- the list ----------------------------------------------------------------------------------------------------------------


def read(catalog: Catalog, missing: list[str] | None = None) -> tuple[list[str], list[bytes]]:
    """All pages, by their cursors: the names, and the results as they were."""
    names: list[str] = []
    results: list[bytes] = []
    cursor: str | None = None
    while True:
        results.append(catalog.page(cursor, missing or []))
        page = json.loads(results[-1])
        names += [definition["name"] for definition in page["tools"]]
        cursor = page.get("nextCursor")
        if cursor is None:
            return names, results


def test_an_empty_catalog_is_one_empty_page() -> None:
    assert Catalog(512, KIB).page(None, []) == b'{"tools":[]}'


@pytest.mark.row("U15")
def test_a_list_above_the_size_of_a_page_is_paged_and_below_it_is_not() -> None:
    """So that an answer stays below the 1 MiB of the real peers (contract 1.3)."""
    play = CatalogPlay(page_bytes=KIB)
    names = [f"tool{n}" for n in range(100)]
    play.brings("a", *(tool(name, "x" * 40) for name in names))
    found, results = read(play.catalog)
    assert found == names
    assert len(results) > 5
    assert all(len(page) <= KIB + 2 for page in play.catalog.pages())
    assert sum(len(page) for page in play.catalog.pages()) > (len(results) - 1) * KIB * 0.8
    play.brings("a", *names[:3], who=play.catalog.shelves[0].provider)
    assert read(play.catalog) == (names[:3], [play.catalog.page(None, [])])


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "1",
        "0.1",
        "1.0",
        "1.3",
        "1.-1",
        "1.+1",
        "1.01",
        "1.1 ",
        "1.１",
        "01.1",
        "1.1.1",
        "1." + "9" * 5000,
        "2.1",
        "9" * 5000 + ".1",
    ],
)
def test_a_cursor_that_is_not_of_this_list_gives_the_list_from_its_start(cursor: str) -> None:
    play = CatalogPlay(page_bytes=200)
    play.brings("a", *(f"tool{n}" for n in range(7)))
    assert play.catalog.revision == 1
    assert len(play.catalog.pages()) == 3
    assert json.loads(play.catalog.page(None, []))["nextCursor"] == "1.1"
    assert play.catalog.page(cursor, []) == play.catalog.page(None, [])
    assert play.catalog.page("1.1", []) != play.catalog.page("1.2", []) != play.catalog.page(None, [])


def test_the_commas_count_for_the_size_of_a_page() -> None:
    size = len(tool("x").definition)
    for page_bytes, pages in ((3 * size + 1, 2), (3 * size + 2, 1)):
        play = CatalogPlay(page_bytes=page_bytes)
        play.brings("a", "x", "y", "z")
        assert len(play.catalog.pages()) == pages


def test_an_old_cursor_gives_the_new_list_from_its_start() -> None:
    play = CatalogPlay(page_bytes=200)
    play.brings("a", *(f"tool{n}" for n in range(7)))
    cursor = json.loads(play.catalog.page(None, []))["nextCursor"]
    play.brings("b", "more")
    assert play.catalog.page(cursor, []) == play.catalog.page(None, [])


def test_who_has_not_told_its_tools_in_time_is_named_beside_the_list() -> None:
    play = CatalogPlay(page_bytes=200)
    play.brings("a", *(f"tool{n}" for n in range(7)))
    names, results = read(play.catalog, ["slow", "慢"])
    assert len(names) == 7
    assert [json.loads(result)["_meta"] for result in results] == [{"mcp-endpoint-server/missing": ["slow", "慢"]}] * len(results)
    assert b"_meta" not in play.catalog.page(None, [])


def test_the_fingerprint_is_equal_exactly_when_the_list_is() -> None:
    play = CatalogPlay()
    empty = play.catalog.fingerprint()
    who = play.brings("a", "x")
    one = play.catalog.fingerprint()
    replica = play.brings("a", "x")
    assert play.catalog.fingerprint() == one != empty
    play.brings("a", tool("x", "new words"), who=replica)
    assert play.catalog.fingerprint() not in (one, empty)
    play.catalog.leave(replica, 0.0)
    assert play.catalog.fingerprint() == one
    play.catalog.leave(who, 0.0)
    play.catalog.sweep(0.0)
    assert play.catalog.fingerprint() == empty


def test_the_cut_between_pages_is_part_of_the_fingerprint() -> None:
    """A tool that moved to another page is another list for who reads by pages."""
    wide, narrow = CatalogPlay(), CatalogPlay(page_bytes=100)
    for play in (wide, narrow):
        play.brings("a", "x", "y", "z")
    assert wide.catalog.fingerprint() != narrow.catalog.fingerprint()


# -- the whole, for any endpoint ---------------------------------------------------------------------------------------------

LABEL = st.sampled_from(["a", "b", "c"])
NAMES = st.lists(st.sampled_from(["x", "y", "b__x", "c__y", "a__x", "z"]), max_size=4)


@given(st.lists(st.tuples(LABEL, NAMES), min_size=1, max_size=5), st.data())
def test_the_order_in_which_lists_happen_to_arrive_does_not_matter(brought: list[tuple[str, list[str]]], data: st.DataObject) -> None:
    """Names follow the order of attaching (rule 3), and the same shelves give the same bytes (rule 4)."""
    calm, hasty = CatalogPlay(), CatalogPlay()
    for label, names in brought:
        calm.brings(label, *names)
    arrivals = [hasty.comes() for _ in brought]
    for number in data.draw(st.permutations(range(len(brought)))):
        label, names = brought[number]
        hasty.brings(label, *names, who=arrivals[number])
    assert hasty.catalog.pages() == calm.catalog.pages()
    assert hasty.catalog.owners == calm.catalog.owners
    assert hasty.catalog.fingerprint() == calm.catalog.fingerprint()


@pytest.mark.row("D4")
@given(st.data())
def test_whatever_comes_and_goes_a_name_once_given_keeps_its_meaning(data: st.DataObject) -> None:
    play = CatalogPlay(limit=data.draw(st.sampled_from([3, 512])), page_bytes=data.draw(st.sampled_from([60, 120, 256 * KIB])))
    catalog = play.catalog
    here: list[Any] = []
    labels: dict[Any, str] = {}
    meanings: dict[str, tuple[str, str]] = {}
    for now in range(data.draw(st.integers(1, 8))):
        match data.draw(st.sampled_from(["comes", "again", "leaves", "swept", "timed out"])):
            case "again" if here:
                who = data.draw(st.sampled_from(here))
                play.brings(labels[who], *data.draw(NAMES), who=who)
            case "leaves" if here:
                who = here.pop(data.draw(st.integers(0, len(here) - 1)))
                catalog.leave(who, float(now))
            case "swept":
                catalog.sweep(float(now) - 2)
            case "timed out" if here:
                data.draw(st.sampled_from(here)).doubtful = True
            case _:
                label = data.draw(LABEL)
                who = play.brings(label, *data.draw(NAMES))
                here.append(who)
                labels[who] = label
        if data.draw(st.booleans()):
            continue  # nobody needs a name yet
        names, results = read(catalog)
        assert len(names) == len(set(names))
        assert all(len(page) <= catalog.page_bytes + NAME_CHARS for page in catalog.pages())  # a name may have grown
        assert len({(shelf.label, name) for shelf in catalog.shelves if shelf.left is None for name in shelf.tools}) <= catalog.limit
        for name in names:
            owner = catalog.owners[name]
            assert meanings.setdefault(name, owner) == owner
            answering = catalog.replicas(*owner)
            assert all(labels[shelf.provider] == owner[0] and shelf.provider in here and owner[1] in shelf.tools for shelf in answering)
            assert answering or any(shelf.left is not None and shelf.label == owner[0] for shelf in catalog.shelves)
        assert catalog.owners == {exported: owner for owner, exported in catalog.exported.items()}
        assert all(json.loads(jsonrpc.result(b"1", result)) for result in results)
