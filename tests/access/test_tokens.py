"""tokens: what opens, what is refused, what is opaque."""

from __future__ import annotations

import base64
import re
import string
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from hypothesis import assume, given
from hypothesis import strategies as st

from mcp_endpoint.access import tokens
from mcp_endpoint.access.tokens import Grant, TokenCodec, TokenRefused, is_placeholder, make_key, pad_key, refused_by_xiaozhi

KEY = "0123456789abcdef0123456789abcdef"
CODEC = TokenCodec(KEY)
MD5 = "c4ca4238a0b923820dcc509a6f75849b"
AGENTS = st.from_regex(tokens.NAME, fullmatch=True)
NOW = 1_000_000_000.0

# Made with the openssl command: what manager-api writes, and the same without the blank behind the colon.
BLANK = "PlZZUCeUelPqanvOth92yK1Uyds1/FGjIKGWyu7sMcAJ+6Dx+Hho8TAkDl7MbXPF"
COMPACT = "bbJ2Xr9kcdBg+6GtzrYFS+BgZNyLj2/csb9aQS7tOuBqMqKMLyIP8NyLsl5hZUOI"
SINGLE_BLANK = "1+08xP+MVKq52fk6fDG5rCZyUoDIVSjfvMOI4QEMqpQ="
SINGLE_COMPACT = "25tO2++ot20uAGYQUBDxwVzV0D6LHCTIffJCvU7cDWM="


def seal(plain: bytes, key: str = KEY) -> str:
    """Any plain text as a xiaozhi token, by the library's own padding."""
    padder = PKCS7(128).padder()
    return seal_blocks(padder.update(plain) + padder.finalize(), key)


def seal_blocks(blocks: bytes, key: str = KEY) -> str:
    encryptor = Cipher(algorithms.AES(pad_key(key)), modes.ECB()).encryptor()
    return base64.b64encode(encryptor.update(blocks) + encryptor.finalize()).decode()


def why(token: str, codec: TokenCodec = CODEC, now: float = NOW) -> str:
    with pytest.raises(TokenRefused) as refused:
        codec.open(token, now)
    assert str(refused.value) == refused.value.why
    assert re.fullmatch(r"[a-z-]{1,20}", refused.value.why), "the reason holds nothing of the token"
    return refused.value.why


def kind(token: str, codec: TokenCodec = CODEC) -> str:
    """How a token ends: its kind, or `refused`."""
    try:
        return codec.open(token, NOW).kind
    except TokenRefused:
        return "refused"


def bit_flips(token: str) -> Iterator[str]:
    """Every text one flipped bit away from the token (7 bits of each character)."""
    for place, letter in enumerate(token):
        for bit in range(7):
            yield token[:place] + chr(ord(letter) ^ 1 << bit) + token[place + 1 :]


# Tokens of manager-api


@pytest.mark.row("U2")
@pytest.mark.parametrize(
    ("token", "agent"), [(BLANK, MD5), (COMPACT, MD5), (SINGLE_BLANK, "single_module"), (SINGLE_COMPACT, "single_module")]
)
def test_a_token_made_by_the_recipe_of_manager_api_opens_to_its_agent_in_either_spelling(token: str, agent: str) -> None:
    assert CODEC.open(token, NOW) == Grant(f"agent:{agent}", agent, "both", "xiaozhi")


@pytest.mark.row("U2")
@pytest.mark.parametrize(
    ("key", "token"),
    [
        ("0123456789abcdef", "fqMBvT76C2t1EMa2sBTmsjdyIuBhqSTFkc2cJ+oWPtQ="),
        ("01234567890123456789", "/c5aaS3kAhQKK3fp8s29d9ACM0ZSLD7UZsk+Cw9iZc0="),
    ],
)
def test_keys_are_filled_up_as_manager_api_fills_them(key: str, token: str) -> None:
    codec = TokenCodec(key)
    assert codec.open(token, NOW).endpoint == "agent:x"
    assert codec.make_xiaozhi("x") == token


def test_a_key_of_16_24_or_32_bytes_stays_and_others_are_filled_or_cut_to_32() -> None:
    assert [pad_key("k" * n) for n in (16, 24, 32)] == [b"k" * 16, b"k" * 24, b"k" * 32]
    assert pad_key("k" * 20) == b"k" * 20 + bytes(12)
    assert pad_key("k" * 40) == b"k" * 32
    assert pad_key("密") == "密".encode() + bytes(29), "bytes count, not characters"


@pytest.mark.row("U2")
def test_the_token_made_here_is_the_one_manager_api_makes() -> None:
    assert CODEC.make_xiaozhi(MD5) == BLANK
    assert CODEC.make_xiaozhi(tokens.SINGLE_MODULE) == SINGLE_BLANK


@given(AGENTS)
def test_every_agent_gets_back_in_with_its_token_and_only_there(agent: str) -> None:
    for token in (CODEC.make_xiaozhi(agent), seal(b'{"agentId":"%b"}' % agent.encode())):
        assert CODEC.open(token, NOW) == Grant(f"agent:{agent}", agent, "both", "xiaozhi")
        if len(token) >= 44:
            assert why(token, TokenCodec(make_key())) == "not-ours"


@pytest.mark.row("U2", "D24")
@pytest.mark.parametrize("token", [BLANK, SINGLE_BLANK, SINGLE_COMPACT])
def test_tokens_that_a_client_or_an_address_bar_broke_still_open(token: str) -> None:
    """A blank for +, the URL-safe alphabet, lost = signs, and all of it together."""
    agent = CODEC.open(token, NOW)
    safe = token.replace("+", "-").replace("/", "_")
    for broken in (token.replace("+", " "), safe, token.rstrip("="), safe.rstrip("="), token.replace("+", " ").rstrip("=")):
        assert CODEC.open(broken, NOW) == agent


@pytest.mark.row("D25")
@pytest.mark.parametrize(
    "plain",
    [
        b'{"agentId": "a", "agentId": "b"}',
        b'{"agentId": "b", "x": 1, "y": 12345}',
        b'{ "agentId": "abcdefghijklmnopqrst"}',
        b'{"agentId" : "abcdefghijklmnopqrst"}',
        b'{"agentId":  "abcdefghijklmnopqrst"}',
        b'{"agentId": "abcdefghijklmnopqrst"}\n',
        b'{"agentId": "\\u0061bcdefghijklmnopqrs"}',
        b'{"agentId": "a/b............"}',
        '{"agentId": "智能体智能体"}'.encode(),
        b'{"agentId": "%b"}' % (b"a" * 65),
        b'{"agentId": ""}    ' + b" " * 8,
        b'{"agentId": 1234567890123456789}',
        b'{"agentid": "abcdefghijklmnopqrst"}',
        b'["abcdefghijklmnopqrstuvwxyz"]',
        b'"abcdefghijklmnopqrstuvwxyz"',
        b"\xff\xfe" + b"\x00" * 20,
        b"12345678901234567890",
    ],
)
def test_anything_but_exactly_one_agent_id_in_the_two_spellings_is_refused(plain: bytes) -> None:
    assert why(seal(plain)) == "not-ours"


@pytest.mark.parametrize("last", [0, 3, 17, 48, 200, 255])
def test_a_padding_that_no_peer_writes_is_refused(last: int) -> None:
    plain = b'{"agentId": "%b"}' % MD5.encode()
    assert len(plain) == 47
    assert why(seal_blocks(plain + bytes([last]))) == "not-ours"
    assert why(seal_blocks(b'{"agentId": "abcdefghijklm"}' + b"\x01\x02\x03\x04")) == "not-ours"


@pytest.mark.row("D25")
@pytest.mark.parametrize("token", [BLANK, COMPACT, SINGLE_BLANK, CODEC.make_xiaozhi("a" * 64)])
def test_no_flipped_bit_of_a_xiaozhi_token_opens_an_agent_and_what_keeps_the_shape_is_refused(token: str) -> None:
    for broken in bit_flips(token):
        end = kind(broken)
        assert end in ("refused", "opaque"), broken
        if re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", broken) and broken.count("=") == token.count("="):
            assert end == "refused", broken


def test_unused_bits_of_the_last_character_do_not_make_a_second_token() -> None:
    assert SINGLE_BLANK[-2] == "Q"
    assert why(SINGLE_BLANK[:-2] + "R=") == "not-ours"
    assert kind(SINGLE_BLANK[:-2] + "R") == "opaque"


@pytest.mark.parametrize(
    ("token", "end"),
    [
        ("A" * 43 + "=", "refused"),
        ("A" * 44, "opaque"),
        ("A" * 42 + "==", "opaque"),
        ("g" * 64, "refused"),
        ("g" * 63, "opaque"),
        ("g" * 65, "opaque"),
        ("g" * 66, "opaque"),
        ("g" * 128, "refused"),
        ("ab" * 32, "opaque"),
        ("AB" * 32, "opaque"),
        ("g" * 63 + "-", "opaque"),
        ("g" * 24, "opaque"),
        ("g" * 63 + "é", "opaque"),
    ],
)
def test_the_shape_decides_whether_a_token_must_open(token: str, end: str) -> None:
    """44 characters ending in =, or at least 64 of base64 that are not all hex and are whole blocks; hashes in hex are names."""
    assert kind(token) == end


def test_blocks_of_two_tokens_can_be_joined_and_the_list_of_agents_closes_that() -> None:
    one, two = "a" * 32, "b" * 32
    blocks = [base64.b64decode(CODEC.make_xiaozhi(agent)) for agent in (one, two)]
    joined = base64.b64encode(blocks[0][:16] + blocks[1][16:]).decode()
    assert CODEC.open(joined, NOW).shown == "aaa" + "b" * 29, "a documented property of the format"
    closed = TokenCodec(KEY, agents=(one, two))
    assert why(joined, closed) == "agent-not-allowed"
    assert closed.open(CODEC.make_xiaozhi(one), NOW).shown == one
    assert closed.open(closed.make_signed("kitchen"), NOW).shown == "kitchen", "signed tokens cannot be joined"


# Signed tokens


@given(AGENTS, st.sampled_from(["tool", "device", "both"]), st.none() | st.floats(NOW + 1, 1e12))
def test_a_signed_token_opens_what_it_was_made_for(name: str, role: tokens.Role, expires: float | None) -> None:
    token = CODEC.make_signed(name, role, expires)
    assert CODEC.open(token, NOW) == Grant(f"signed:{name}", name, role, "signed")
    assert re.fullmatch(r"mep1\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}", token), "it needs no escaping in an address"
    assert not refused_by_xiaozhi(token)
    assert why(token, TokenCodec(KEY + "x")) == "bad-signature"


def test_no_flipped_bit_of_a_signed_token_opens_anything_of_ours() -> None:
    for token in (CODEC.make_signed("kitchen"), CODEC.make_signed("kitchen", "tool", NOW + 60)):
        for broken in bit_flips(token):
            assert kind(broken) == ("refused" if broken.startswith("mep1.") else "opaque"), broken


@pytest.mark.parametrize(
    "token", ["mep1.", "mep1..", "mep1.e30", "mep1.e30.", "mep1.密.密", "mep1.\ud800.x", "mep1. " + "A" * 43, "mep1.e30." + "A" * 43]
)
def test_what_begins_like_a_signed_token_must_be_one(token: str) -> None:
    assert why(token) == "bad-signature"


def test_a_signed_token_ends_when_it_says() -> None:
    token = CODEC.make_signed("kitchen", expires=NOW)
    assert CODEC.open(token, NOW - 0.001).shown == "kitchen"
    assert why(token) == "expired"


@pytest.mark.parametrize("bad", ["", "a b", "a" * 65, "智能体", 'a"', "a\n"])
def test_names_that_would_need_escaping_get_no_token(bad: str) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        CODEC.make_signed(bad)
    with pytest.raises(ValueError, match="1 to 64"):
        CODEC.make_xiaozhi(bad)


@pytest.mark.parametrize("expires", [float("nan"), float("inf"), float("-inf")])
def test_an_end_that_json_cannot_carry_is_not_taken_for_no_end(expires: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        CODEC.make_signed("kitchen", expires=expires)


def test_a_signed_token_is_filled_until_no_peer_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CODEC.make_signed("kitchen")
    monkeypatch.setattr(tokens, "refused_by_xiaozhi", lambda text: text == plain)
    filled = CODEC.make_signed("kitchen")
    assert filled != plain
    assert CODEC.open(filled, NOW) == CODEC.open(plain, NOW)
    monkeypatch.setattr(tokens, "refused_by_xiaozhi", lambda text: True)
    assert CODEC.make_signed("kitchen") == plain, "the drawing ends"


# Opaque tokens


@given(st.text(st.characters(), min_size=1, max_size=40))
def test_any_other_text_is_the_name_of_its_own_endpoint_and_shows_nothing_of_itself(token: str) -> None:
    assume(not (is_placeholder(token) or token.startswith("mep1.")))
    grant = CODEC.open(token, NOW)
    assert grant.kind == "opaque"
    assert grant.endpoint == f"opaque:{token}"
    assert re.fullmatch(r"opaque-[0-9a-f]{8}", grant.shown)
    assert grant.role == "both"


@pytest.mark.parametrize(
    "token",
    [
        *("...", "..", "…", "……", "***", "TOKEN", "<token>", "<your token>", "[TOKEN]", "{token}", "${TOKEN}", "$TOKEN", "%TOKEN%"),
        *("YOUR_TOKEN", "your-token", "Your Token Here", "your_mcp_token", "my_token", "yourtoken", "您的令牌", "你的token"),
    ],
)
def test_what_stands_in_examples_is_no_token(token: str) -> None:
    assert why(token) == "placeholder"


@pytest.mark.parametrize("token", [".", "token", "my token of last week", "a...", "yours", "xxx", "kitchen", "$", "<", "[]", "100%"])
def test_what_only_looks_a_little_like_an_example_is_one(token: str) -> None:
    assert kind(token) == "opaque"


def test_the_three_kinds_never_meet_in_one_endpoint() -> None:
    names = {CODEC.open(token, NOW).endpoint for token in (CODEC.make_xiaozhi("x"), CODEC.make_signed("x"), "x", "agent:x", "signed:x")}
    assert names == {"agent:x", "signed:x", "opaque:x", "opaque:agent:x", "opaque:signed:x"}


def test_a_jwt_of_another_service_is_opaque() -> None:
    jwt = "eyJhbGciOiJFUzI1NiJ9." + "A" * 200 + "." + "B" * 86
    assert kind(jwt) == "opaque"


def test_no_token_and_a_token_out_of_bounds_are_refused() -> None:
    assert why("") == "missing"
    assert kind("智" * 1365) == "opaque"
    assert why("智" * 1366) == "too-long"


@given(
    st.text(max_size=80)
    | st.from_regex(r"[A-Za-z0-9+/ _-]{0,90}={0,3}", fullmatch=True)
    | st.from_regex(r"mep1\.[A-Za-z0-9._=-]{0,90}", fullmatch=True)
)
def test_nothing_made_up_opens_an_agent_or_a_signed_endpoint(token: str) -> None:
    assert kind(token) in ("opaque", "refused")


# Keys


@pytest.mark.row("U2")
def test_a_new_key_is_32_letters_and_digits_and_no_two_are_alike() -> None:
    keys = {make_key() for _ in range(200)}
    assert len(keys) == 200
    assert all(len(key) == 32 and set(key) <= set(string.ascii_letters + string.digits) for key in keys)
    assert not any(refused_by_xiaozhi(TokenCodec(key).make_xiaozhi(tokens.SINGLE_MODULE)) for key in keys)


def test_a_key_whose_printed_token_a_peer_would_refuse_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def refuse_two(token: str) -> bool:
        seen.append(token)
        return len(seen) < 3

    monkeypatch.setattr(tokens, "refused_by_xiaozhi", refuse_two)
    key = make_key()
    assert len(seen) == 3
    assert TokenCodec(key).make_xiaozhi(tokens.SINGLE_MODULE) == seen[-1]


@pytest.mark.parametrize(("text", "refused"), [("aKeYb", True), ("xxCALLx", True), ("kcealyl", False), ("", False)])
def test_xiaozhi_server_refuses_the_words_key_and_call_in_any_case(text: str, refused: bool) -> None:
    assert refused_by_xiaozhi(text) is refused


def test_an_empty_key_under_which_everybody_could_make_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        TokenCodec("")


@pytest.mark.row("D31")
def test_secrets_are_never_compared_with_an_operator(request: pytest.FixtureRequest) -> None:
    """Comparing ends early with == ; MACs and blocks go through hmac.compare_digest."""
    source = (request.config.rootpath / "src/mcp_endpoint/access/tokens.py").read_text("utf-8")
    assert source.count("compare_digest(") == 3
    assert not re.search(r"\b(mac|sealed|key|digest)\s*[!=]=|[!=]=\s*(mac|sealed|key|digest)\b", source)
