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


class House:
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
    house = House()
    one, two = house.brings("calc", "add", "查询"), house.brings("weather", "add", "rain")
    assert house.names() == ["add", "查询", "weather__add", "rain"]
    assert house.answers("add") == house.answers("查询") == [one]
    assert house.answers("weather__add") == house.answers("rain") == [two]
    assert house.catalog.owners["weather__add"] == ("weather", "add")


def test_a_renamed_definition_keeps_every_other_byte() -> None:
    house = House()
    house.brings("a", "add")
    definition = '{ "title" : "加", "name" : "\\u0061dd" , "x": 1.00, "annotations":{"name":"add"}}'.encode()
    made = read_tool(definition)
    assert made is not None
    house.brings("b", made)
    assert definition.replace(b'"\\u0061dd"', b'"b__add"') in house.catalog.pages()[0]


@pytest.mark.row("U17")
def test_a_joined_name_is_at_most_64_characters_and_differs_where_the_wholes_differ() -> None:
    assert joined_name("weather", "add") == "weather__add"
    assert len(joined_name("l" * 30, "n" * 32)) == 64
    assert joined_name("l" * 30, "n" * 32) == "l" * 30 + "__" + "n" * 32
    long = [joined_name("l" * 64, "n" * n) for n in range(1, 50)] + [joined_name("l" * 30, "n" * 33), joined_name("天" * 70, "气")]
    assert len(set(long)) == len(long)
    assert all(len(name) == NAME_CHARS and re.search("_[0-9a-f]{6}$", name) for name in long)


def test_a_joined_name_that_somebody_bears_already_gets_a_digest() -> None:
    house = House()
    house.brings("a", "add", "b__add")
    two = house.brings("b", "add")
    names = house.names()
    assert names[:2] == ["add", "b__add"]
    assert re.fullmatch("b__add_[0-9a-f]{6}", names[2])
    assert house.answers(names[2]) == [two]


def test_a_tool_whose_every_name_is_taken_has_none_rather_than_somebody_elses() -> None:
    house = House()
    house.brings("a", "add", "b__add")
    house.brings("b", "add")
    taken = house.names()
    rude = House()
    one = rude.brings("a", *taken)
    rude.brings("b", "add", "own")
    assert rude.names() == [*taken, "own"]
    assert all(rude.answers(name) == [one] for name in taken)
    assert ("b", "add") not in rude.catalog.exported


@pytest.mark.row("D4")
def test_a_name_means_the_same_tool_until_the_end_also_when_its_owner_has_left() -> None:
    """Owner away: nobody answers under its name; never another server's tool (§3.2)."""
    house = House()
    one = house.brings("calc", "add")
    two = house.brings("weather", "add")
    assert house.names() == ["add", "weather__add"]
    house.catalog.leave(one, 10.0)
    assert house.answers("add") == []
    assert house.names() == ["add", "weather__add"]
    assert house.catalog.sweep(10.0)
    assert house.names() == ["weather__add"]
    assert house.answers("weather__add") == [two]
    three = house.brings("third", "add")
    assert house.names() == ["weather__add", "third__add"]
    back = house.brings("calc", "add")
    assert house.names() == ["weather__add", "third__add", "add"]
    assert house.answers("add") == [back]
    assert house.answers("third__add") == [three]


def test_a_provider_that_renames_its_tools_for_ever_comes_to_an_end() -> None:
    house = House(limit=2)
    who = house.comes()
    for n in range(3 * NAMES_PER_TOOL):
        house.brings("a", f"x{n}", f"y{n}", who=who)
        house.catalog.settle()
        house.catalog.called |= dict.fromkeys(house.catalog.owners)
    assert len(house.catalog.owners) == len(house.catalog.exported) == 2 * NAMES_PER_TOOL
    assert house.names() == [] and house.catalog.full
    house.brings("a", "x0", who=who)
    assert house.names() == ["x0"] and not house.catalog.full


def test_names_that_nobody_ever_called_are_given_anew_when_none_is_left() -> None:
    house = House(limit=2)
    who = house.comes()
    for n in range(NAMES_PER_TOOL):
        house.brings("a", f"x{n}", f"y{n}", who=who)
        house.catalog.settle()
    house.catalog.called |= {"x0": None}
    house.brings("a", "x1", "z", who=who)
    assert house.names() == ["x1", "z"] and not house.catalog.full
    assert list(house.catalog.owners) == ["x0", "x1", "z"]
    house.brings("b", "x0", "y0", who=who)
    assert house.names() == ["b__x0", "y0"], "what was called keeps its meaning, what never was is free"


def test_names_are_plain_while_one_label_owns_them_all_under_their_own_name() -> None:
    house = House()
    assert house.catalog.plain_for("a")
    house.brings("a", "add", "sub")
    assert house.catalog.plain_for("b")  # nobody has needed a name yet
    house.catalog.settle()
    assert house.catalog.plain_for("a")
    assert not house.catalog.plain_for("b")
    house.brings("b", "rain")
    house.catalog.settle()
    assert not house.catalog.plain_for("a")


def test_names_that_had_to_be_changed_are_not_plain() -> None:
    house = House()
    one = house.brings("a", "add")
    house.brings("b", "add")
    house.catalog.settle()
    house.catalog.leave(one, 0.0)
    house.catalog.sweep(0.0)
    assert not house.catalog.plain_for("b")


# -- replicas ----------------------------------------------------------------------------------------------------------------


@pytest.mark.row("D3", "U12")
def test_of_replicas_the_newest_answers_and_the_older_resumes_when_it_leaves() -> None:
    """A tool that reconnects before its old link is reaped is there at once, and the old link's end does not take it away."""
    house = House()
    old = house.brings("calc", "add")
    new = house.brings("calc", "add")
    assert house.names() == ["add"]
    assert house.answers("add") == [new, old]
    house.catalog.leave(new, 0.0)
    assert house.answers("add") == [old]
    again = house.brings("calc", "add")
    house.catalog.leave(old, 0.0)
    assert house.answers("add") == [again]
    assert house.names() == ["add"]


@pytest.mark.row("U14")
def test_a_replica_whose_last_call_timed_out_is_second_choice() -> None:
    house = House()
    old, new = house.brings("calc", "add"), house.brings("calc", "add")
    new.doubtful = True
    assert house.answers("add") == [old, new]
    old.doubtful = True
    assert house.answers("add") == [new, old]
    new.doubtful = False
    assert house.answers("add") == [new, old]
    house.catalog.leave(old, 0.0)
    new.doubtful = True
    assert house.answers("add") == [new]


@pytest.mark.row("U14")
def test_another_definition_is_a_fall_back_also_when_the_newest_is_in_doubt() -> None:
    """Same label, another definition: the newest wins the name (§3.2), and a doubt does not change what the name means."""
    house = House()
    other = house.brings("calc", tool("add", "other"))
    same, new = house.brings("calc", tool("add")), house.brings("calc", tool("add"))
    assert house.answers("add") == [new, same, other]
    new.doubtful = True
    assert house.answers("add") == [same, new, other]
    same.doubtful = True
    assert house.answers("add") == [new, same, other]
    house.catalog.leave(same, 0.0)
    house.catalog.leave(new, 0.0)
    assert house.answers("add") == [other]


def test_the_newest_that_has_not_left_describes_the_tool_at_its_old_place() -> None:
    house = House()
    old = house.brings("calc", tool("add", "old"), "sub")
    middle = house.brings("calc", tool("add", "middle"))
    new = house.brings("calc", tool("add", "new"))

    def described() -> list[str]:
        assert house.names() == ["add", "sub"]
        return [definition["description"] for definition in house.list()]

    assert described() == ["new", ""]
    house.catalog.leave(new, 0.0)
    assert described() == ["middle", ""]
    house.catalog.leave(old, 0.0)
    assert described() == ["middle", ""]
    house.catalog.leave(middle, 0.0)
    assert described() == ["new", ""]


def test_replicas_may_have_different_tools() -> None:
    house = House()
    old, new = house.brings("calc", "add", "sub"), house.brings("calc", "add", "mul")
    assert house.names() == ["add", "sub", "mul"]
    assert (house.answers("sub"), house.answers("mul")) == ([old], [new])


# -- coming, changing, leaving -----------------------------------------------------------------------------------------------


def test_what_a_provider_brings_anew_takes_the_place_of_what_it_brought_before() -> None:
    house = House()
    who = house.brings("calc", "add", "sub")
    house.brings("weather", "rain")
    house.brings("calc", "sub", "mul", who=who)
    assert house.names() == ["sub", "mul", "rain"]
    shelf = house.catalog.shelf_of(who)
    assert shelf is not None
    assert list(shelf.tools) == ["sub", "mul"]
    assert house.catalog.shelf_of(house.comes()) is None


def test_a_shelf_that_was_left_makes_room_for_the_same_label_only() -> None:
    house = House()
    calc, rain = house.brings("calc", "add", "sub"), house.brings("weather", "rain")
    house.catalog.leave(calc, 0.0)
    house.catalog.leave(rain, 0.0)
    house.brings("calc", "add")
    assert house.names() == ["rain", "add"]


def test_a_shelf_stays_until_it_is_swept() -> None:
    house = House()
    one, two = house.brings("a", "x"), house.brings("b", "y")
    house.catalog.leave(one, 5.0)
    house.catalog.leave(two, 7.0)
    house.catalog.leave(house.comes(), 8.0)
    assert not house.catalog.sweep(4.9)
    assert house.names() == ["x", "y"]
    assert house.catalog.sweep(5.0)
    assert house.names() == ["y"]
    assert house.catalog.sweep(8.0)
    assert house.names() == []
    assert not house.catalog.sweep(9.0)
    assert not house.catalog.shelves


# -- bounds ------------------------------------------------------------------------------------------------------------------


def test_tools_beyond_the_limit_are_left_out_and_counted() -> None:
    house = House(limit=3)
    first, second = house.comes(), house.comes()
    assert house.catalog.put(first, "a", 1, tools("p", "q")) == 0
    assert house.catalog.put(second, "b", 2, tools("r", "s", "t", "s")) == 2
    assert house.names() == ["p", "q", "r"]
    assert house.catalog.put(first, "a", 1, tools("p", "q", "u")) == 1
    assert house.catalog.put(first, "a", 1, tools("p")) == 0
    assert house.catalog.put(second, "b", 2, tools("r", "s", "t")) == 1
    assert house.names() == ["p", "r", "s"]


def test_replicas_and_those_who_left_take_no_room() -> None:
    """A tool that comes back while its old link still hangs brings all it had."""
    house = House(limit=3)
    old, new = house.comes(), house.comes()
    assert house.catalog.put(old, "a", 1, tools("x", "y", "z")) == 0
    assert house.catalog.put(new, "a", 2, tools("x", "y", "z", "more")) == 1
    house.catalog.leave(old, 0.0)
    assert house.names() == ["x", "y", "z"]
    house.catalog.leave(new, 0.0)
    assert house.catalog.put(house.comes(), "b", 3, tools("u", "v", "w")) == 0


def test_what_is_replaced_takes_no_room() -> None:
    house = House(limit=3)
    who = house.brings("a", "p", "q", "r")
    assert house.catalog.put(who, "a", 1, tools("x", "y", "z", "more")) == 1
    assert house.names() == ["x", "y", "z"]


def test_a_name_that_stands_twice_in_one_list_is_one_tool() -> None:
    house = House(limit=1)
    assert house.catalog.put(house.comes(), "a", 1, [tool("x", "first"), tool("x", "second")]) == 0
    assert [definition["description"] for definition in house.list()] == ["second"]


def test_a_tool_larger_than_a_page_is_left_out() -> None:
    """A page with it would never reach a device, and the list would end there."""
    house = House(page_bytes=KIB)
    assert house.catalog.put(house.comes(), "a", 1, [tool("x"), tool("huge", "x" * KIB), tool("y")]) == 1
    assert house.names() == ["x", "y"]


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
    house = House(page_bytes=KIB)
    names = [f"tool{n}" for n in range(100)]
    house.brings("a", *(tool(name, "x" * 40) for name in names))
    found, results = read(house.catalog)
    assert found == names
    assert len(results) > 5
    assert all(len(page) <= KIB + 2 for page in house.catalog.pages())
    assert sum(len(page) for page in house.catalog.pages()) > (len(results) - 1) * KIB * 0.8
    house.brings("a", *names[:3], who=house.catalog.shelves[0].provider)
    assert read(house.catalog) == (names[:3], [house.catalog.page(None, [])])


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
    house = House(page_bytes=200)
    house.brings("a", *(f"tool{n}" for n in range(7)))
    assert house.catalog.revision == 1
    assert len(house.catalog.pages()) == 3
    assert json.loads(house.catalog.page(None, []))["nextCursor"] == "1.1"
    assert house.catalog.page(cursor, []) == house.catalog.page(None, [])
    assert house.catalog.page("1.1", []) != house.catalog.page("1.2", []) != house.catalog.page(None, [])


def test_the_commas_count_for_the_size_of_a_page() -> None:
    size = len(tool("x").definition)
    for page_bytes, pages in ((3 * size + 1, 2), (3 * size + 2, 1)):
        house = House(page_bytes=page_bytes)
        house.brings("a", "x", "y", "z")
        assert len(house.catalog.pages()) == pages


def test_an_old_cursor_gives_the_new_list_from_its_start() -> None:
    house = House(page_bytes=200)
    house.brings("a", *(f"tool{n}" for n in range(7)))
    cursor = json.loads(house.catalog.page(None, []))["nextCursor"]
    house.brings("b", "more")
    assert house.catalog.page(cursor, []) == house.catalog.page(None, [])


def test_who_has_not_told_its_tools_in_time_is_named_beside_the_list() -> None:
    house = House(page_bytes=200)
    house.brings("a", *(f"tool{n}" for n in range(7)))
    names, results = read(house.catalog, ["slow", "慢"])
    assert len(names) == 7
    assert [json.loads(result)["_meta"] for result in results] == [{"mcp-endpoint-server/missing": ["slow", "慢"]}] * len(results)
    assert b"_meta" not in house.catalog.page(None, [])


def test_the_fingerprint_is_equal_exactly_when_the_list_is() -> None:
    house = House()
    empty = house.catalog.fingerprint()
    who = house.brings("a", "x")
    one = house.catalog.fingerprint()
    replica = house.brings("a", "x")
    assert house.catalog.fingerprint() == one != empty
    house.brings("a", tool("x", "new words"), who=replica)
    assert house.catalog.fingerprint() not in (one, empty)
    house.catalog.leave(replica, 0.0)
    assert house.catalog.fingerprint() == one
    house.catalog.leave(who, 0.0)
    house.catalog.sweep(0.0)
    assert house.catalog.fingerprint() == empty


def test_the_cut_between_pages_is_part_of_the_fingerprint() -> None:
    """A tool that moved to another page is another list for who reads by pages."""
    wide, narrow = House(), House(page_bytes=100)
    for house in (wide, narrow):
        house.brings("a", "x", "y", "z")
    assert wide.catalog.fingerprint() != narrow.catalog.fingerprint()


# -- the whole, for any endpoint ---------------------------------------------------------------------------------------------

LABEL = st.sampled_from(["a", "b", "c"])
NAMES = st.lists(st.sampled_from(["x", "y", "b__x", "c__y", "a__x", "z"]), max_size=4)


@given(st.lists(st.tuples(LABEL, NAMES), min_size=1, max_size=5), st.data())
def test_the_order_in_which_lists_happen_to_arrive_does_not_matter(brought: list[tuple[str, list[str]]], data: st.DataObject) -> None:
    """Names follow the order of attaching (rule 3), and the same shelves give the same bytes (rule 4)."""
    calm, hasty = House(), House()
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
    house = House(limit=data.draw(st.sampled_from([3, 512])), page_bytes=data.draw(st.sampled_from([60, 120, 256 * KIB])))
    catalog = house.catalog
    here: list[Any] = []
    labels: dict[Any, str] = {}
    meanings: dict[str, tuple[str, str]] = {}
    for now in range(data.draw(st.integers(1, 8))):
        match data.draw(st.sampled_from(["comes", "again", "leaves", "swept", "timed out"])):
            case "again" if here:
                who = data.draw(st.sampled_from(here))
                house.brings(labels[who], *data.draw(NAMES), who=who)
            case "leaves" if here:
                who = here.pop(data.draw(st.integers(0, len(here) - 1)))
                catalog.leave(who, float(now))
            case "swept":
                catalog.sweep(float(now) - 2)
            case "timed out" if here:
                data.draw(st.sampled_from(here)).doubtful = True
            case _:
                label = data.draw(LABEL)
                who = house.brings(label, *data.draw(NAMES))
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
