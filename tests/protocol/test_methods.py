"""Each word of MCP has one name, and says what it is: a method, a notification, a key, a header or a revision."""

from __future__ import annotations

import re

from mcp_endpoint.protocol import methods

WORDS = {name: value for name, value in vars(methods).items() if isinstance(value, str) and name.isupper()}


def test_no_word_has_two_names() -> None:
    assert len(set(WORDS.values())) == len(WORDS)


def test_what_nobody_answers_is_a_notification_and_nothing_else_is() -> None:
    notifications = {value for value in WORDS.values() if value.startswith("notifications/")}
    for group in (methods.STATELESS, methods.READING, methods.LISTS, methods.ASKING, methods.CAPABILITIES, methods.NAMED_BY):
        assert group and not notifications & set(group)
    assert set(methods.NAMED_BY) == methods.ASKING and methods.LISTS < methods.CACHEABLE < methods.STATELESS
    assert not {methods.TOOLS_CALL, methods.SUBSCRIBE, methods.SET_LEVEL} & methods.READING, "who repeats these changes something"


def test_headers_are_written_as_they_are_compared() -> None:
    headers = {name: value for name, value in WORDS.items() if name.endswith(("_HEADER", "_HEADERS"))}
    assert headers and all(re.fullmatch(r"[a-z-]+", value) for value in headers.values())


def test_revisions_are_days_and_stand_in_their_order() -> None:
    known = (*methods.HANDSHAKE_REVISIONS, methods.STATELESS_REVISION)
    assert list(known) == sorted(known) and all(re.fullmatch(r"20\d\d-\d\d-\d\d", one) for one in known)
    assert methods.HANDSHAKE_REVISIONS[-1] == methods.LATEST
