"""No secret is written: by its name, by its shape, by its value, however deep it is wrapped; and what is no secret stays as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_endpoint.recorder.redact import Redactor

CANARY = "S3cr3tCanary99"
KNOWN = "Zx93mQ0a/w4TfYb7+sRn2VuPc6DgJe15"
XIAOZHI = "B+OJegOz/lNhCvL/mJquTQ0PSMaJclHxrVR9eSGZN9c="


@pytest.fixture(scope="module")
def rules() -> Redactor:
    return Redactor(b"k" * 32, ["pin_code", "a"], [KNOWN, "short"])


def wrapped(text: str, depth: int) -> str:
    """JSON in a string of JSON, so many times."""
    for _ in range(depth):
        text = json.dumps({"body": text})
    return text


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "text",
    [
        '{"token":"%s"}',
        '{"user": {"Api-Key" : "%s"}}',
        '{"apiKey":"%s"}',
        '{"clientSecret":"%s","x":1}',
        '{"password":"a \\" quote and %s"}',
        '{"passwd":"%s',
        '{"\\u0074oken":"%s"}',
        '{"toke\\u006E":"%s"}',
        '{"pin-code":"%s"}',
        '{"credentials":{"user":{"name":["%s"]}}}',
        '{"cookies":["a","%s"]}',
        '{"Authorization":"Bearer %s"}',
        '{"header":"Bearer %s"}',
        '{"url":"wss://host/mcp/?token=%s&x=1"}',
        '{"form":"user=me&password=%s&x=1"}',
        "{'secret': '%s'}",
        '{"text":"Authorization: %s"}',
        '{"text":"Authorization: Basic %s"}',
        '{"text":"the key is sk-%s."}',
        '{"text":"it is postgres://me:%s@db:5432/x"}',
        '{"text":"redis://:%s@db"}',
        '{"ssh_passphrase":"%s"}',
        '{"text":"mep1.%s"}',
        '{"text":"eyJhbGciOiJIUzI1NiJ9.%s.c2ln"}',
        '{"jwt": "%s"}',
        '{"token":{"value":"%s"',
        '{"token\\u5bc6":"%s"}',
        '{"token: of the house":"%s"}',
        '{"the token\'s value":"%s"}',
        '{"password":"%s\\\\"}',
        '{"password":["a\\\\","%s"],"x":1}',
    ],
)
def test_a_secret_by_its_name_or_its_shape_is_taken_out(rules: Redactor, text: str, depth: int) -> None:
    data = wrapped(text % CANARY, depth).encode()
    clean = rules.body(data)
    assert CANARY.encode() not in clean and b"***~" in clean
    assert rules.body(clean) == clean, "what is clean stays"


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize(
    "secret", [KNOWN, KNOWN.replace("/", "\\/"), "Zx93mQ0a%2Fw4TfYb7%2BsRn2VuPc6DgJe15", XIAOZHI, XIAOZHI.replace("/", "\\/")]
)
def test_a_secret_by_its_value_or_of_a_xiaozhi_token_is_taken_out(rules: Redactor, secret: str, depth: int) -> None:
    data = b'{"text":"it is %s here"}' % secret.encode()
    for _ in range(depth):
        data = b'{"body":"%s"}' % data.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    clean = rules.body(data)
    assert b"Zx93mQ0a" not in clean and b"mJquTQ0P" not in clean


@pytest.mark.parametrize(
    "text",
    [
        '{"max_tokens":100,"usage":{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":3}}}',
        '{"_meta":{"progressToken":"abc-1"}}',
        '{"city":"北京","text":"short words, a cookie and a tokenizer, no secrets"}',
        '{"token":null,"secret":true,"password":""}',
        '{"text":"http://host:8004?to=me@host, http://host:8004/@kitchen, http://[::1]:80/, ssh://git@host:22 and a@b"}',
        '{"passw":[]}',
        '{"image":"' + "QUJD" * 500 + '"}',
        '{"sha256":"' + "ab12" * 16 + '"}',
        '{"u":"\\u00e9\\u0041\\/"}',
        '{"token"',
        '{"token" 1',
        "token",
        "secret: ",
        '{"token\\',
    ],
)
def test_what_is_no_secret_stays_as_it_was(rules: Redactor, text: str) -> None:
    assert rules.body(text.encode()) == text.encode()


def test_what_is_left_is_still_json(rules: Redactor) -> None:
    text = {"password": 123456, "token": ["a", 5], "credential": {"user": "me", "number": 7, "on": True, "e": 1.5}, "after": "x"}
    clean = json.loads(rules.body(json.dumps(text).encode()))
    assert clean["after"] == "x" and clean["token"][1] == 5 and clean["credential"]["on"] is True
    assert all(value.startswith("***~") for value in (clean["password"], clean["token"][0], clean["credential"]["number"]))


texts = st.text(st.sampled_from("ab \\\"'{}[]:,=\n\u5317/u0"), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=300)
@given(
    before=values,
    after=values,
    key=st.sampled_from(["token", "My-Api-Key", "passwd", "clientSecret", "set-cookie", "authorization"]),
    around=st.tuples(texts, texts),
    inside=st.sampled_from(["text", "list", "object"]),
    depth=st.integers(0, 3),
    ascii=st.booleans(),
    cut=st.none() | st.integers(1, 14),
)
def test_whatever_stands_around_a_secret_it_is_found_and_the_rest_is_still_json(
    before: Any, after: Any, key: str, around: tuple[str, str], inside: str, depth: int, ascii: bool, cut: int | None
) -> None:
    secret: Any = CANARY.join(around)
    secret = {"text": secret, "list": [before, secret], "object": {"a": {"b": [secret]}, "c": after}}[inside]
    text = json.dumps([before, {"a": before, key: secret, "z": after}], ensure_ascii=ascii)
    for _ in range(depth):
        text = json.dumps({"body": text, "n": 1}, ensure_ascii=ascii)
    if cut is not None:
        text = text[: text.index(CANARY) + cut]
    clean = Redactor(b"k" * 32).body(text.encode()).decode()
    assert CANARY[:6] not in clean
    assert cut is not None or json.loads(clean)


@pytest.mark.parametrize(
    "piece",
    [
        "token",
        "token'",
        'token"',
        "token\\",
        '"token":',
        '"token":[',
        '"token":{"a',
        "-eyJ",
        "sk-",
        "\\",
        "\\u00",
        "bearer ",
        "x" * 43 + " ",
        "://a:",
        "'",
    ],
)
def test_no_text_keeps_the_writer_busy_for_long(rules: Redactor, piece: str) -> None:
    """What grows with the square of the length would take hours; the hard end of a test is much earlier."""
    text = piece * (100_000 // len(piece))
    for before in ("", '{"\\u0074oken \\/":["'):
        rules.body((before + text).encode())


def test_equal_secrets_can_be_told_to_be_equal_and_other_keys_make_other_marks(rules: Redactor) -> None:
    one, two = (rules.body(b'{"%s":"%s"}' % (name, CANARY.encode())) for name in (b"token", b"secret"))
    assert one.split(b":")[1] == two.split(b":")[1]
    assert rules.headers([("Authorization", f"Bearer {CANARY}")])[0][1].removeprefix("Bearer ") in one.decode()
    assert Redactor(b"j" * 32).mark(b"x") != rules.mark(b"x")


def test_headers_and_queries_are_known_by_their_names(rules: Redactor) -> None:
    headers = rules.headers(
        [("X-Api-Key", CANARY), ("cookie", f"a={CANARY}"), ("x-goog-api-key", CANARY), ("x-pin-code", CANARY), ("accept", "*/*")]
    )
    assert CANARY not in str(headers) and headers[-1] == ("accept", "*/*")
    path = rules.path(f"/v1/chat?api-version=1&key={CANARY}&access_token={CANARY}&q=a&empty=&key=")
    assert CANARY not in path and path.startswith("/v1/chat?api-version=1&key=***~") and "&q=a&empty=&key=" in path
    assert rules.path("/v1/models") == "/v1/models"
    assert CANARY not in rules.path(f"/bot/sk-{CANARY}/x")
    assert rules.short(f"tool of sk-{CANARY}").startswith("tool of ***~")


def test_many_short_bodies_are_looked_through_together(rules: Redactor) -> None:
    clean = [b'{"a":1}', b'{"b":2}']
    assert rules.bodies(clean) is clean
    for secret in (b'{"token":"%s"}', b"sk-%s", b'{"\\u0074":"sk-%s"}', b"\\/ sk-%s"):
        found = rules.bodies([*clean, secret % CANARY.encode()])
        assert found[:2] == clean and CANARY.encode() not in found[2]
    assert rules.bodies([XIAOZHI.encode()]) != [XIAOZHI.encode()] and rules.bodies([KNOWN.encode()]) != [KNOWN.encode()]


def test_bytes_that_are_no_text_are_searched_too(rules: Redactor) -> None:
    assert CANARY.encode() not in rules.body(b'\xff\xfe{"token":"%s"}\x00' % CANARY.encode())
    assert rules.body(b"") == b""
