"""The rules of a model API's gateway, by table: paths, queries, pins, and the environment's keys."""

from __future__ import annotations

import pytest

from mcp_endpoint.gateway import llm
from mcp_endpoint.gateway.llm import EnvironmentKey, below, beside, environment_key, environment_keys, keyless, pinned, shows_key, usable
from mcp_endpoint.gateway.rewrite import Target

CHAT = b"v1/chat/completions"
AZURE = "https://r.openai.azure.com/openai"
OPENROUTER = EnvironmentKey("OPENROUTER_API_KEY", "bearer")
OPENAI = EnvironmentKey("OPENAI_API_KEY", "bearer")
AZURE_KEY = EnvironmentKey("AZURE_OPENAI_API_KEY", "header:api-key")


@pytest.mark.parametrize(
    ("target", "path", "becomes"),
    [
        ("https://openrouter.ai/api/v1", CHAT, b"/api/v1/chat/completions"),
        ("https://openrouter.ai/api/v1/", CHAT, b"/api/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", b"chat/completions", b"/api/v1/chat/completions"),
        ("https://api.openai.com", CHAT, b"/v1/chat/completions"),
        ("https://api.openai.com/", CHAT, b"/v1/chat/completions"),
        ("https://api.openai.com/v1", CHAT, b"/v1/chat/completions"),
        ("https://api.openai.com/v1", b"v1/models", b"/v1/models"),
        ("https://api.openai.com/v1", b"v1", b"/v1"),
        ("https://api.openai.com/v1", b"v1/", b"/v1"),
        ("https://api.openai.com/v1", b"", b"/v1"),
        ("https://api.openai.com/v1", b"v1/v1/models", b"/v1/v1/models"),
        ("https://api.openai.com/v1", b"v10/models", b"/v1/v10/models"),
        ("https://api.openai.com/v1", b"v2/models", b"/v1/v2/models"),
        ("https://api.openai.com/v1", b"files/v1/x", b"/v1/files/v1/x"),
        ("https://api.openai.com/v1", b"v1/models/a%2Fb", b"/v1/models/a%2Fb"),
        ("https://open.example/api/paas/v4", b"v4/chat/completions", b"/api/paas/v4/chat/completions"),
        ("https://open.example/api/paas/v4", b"chat/completions", b"/api/paas/v4/chat/completions"),
        ("https://r.openai.azure.com/openai/v1", CHAT, b"/openai/v1/chat/completions"),
        (f"{AZURE}/deployments/D?api-version=V", CHAT, b"/openai/deployments/D/chat/completions?api-version=V"),
        (f"{AZURE}/deployments/D/?api-version=V", CHAT, b"/openai/deployments/D/chat/completions?api-version=V"),
        (f"{AZURE}/deployments/D?api-version=V", b"chat/completions", b"/openai/deployments/D/chat/completions?api-version=V"),
        # What the AzureOpenAI client itself sends to the bare resource.
        ("https://r.openai.azure.com", b"openai/deployments/D/chat/completions", b"/openai/deployments/D/chat/completions"),
    ],
)
def test_the_version_of_a_path_counts_once(target: str, path: bytes, becomes: bytes) -> None:
    aim = Target.at(target)
    assert aim.join(below(aim.path, path), b"", "", "") == becomes


@pytest.mark.parametrize(
    ("target", "query", "becomes"),
    [
        (b"", b"a=1&b=2", b"a=1&b=2"),
        (b"api-version=V", b"a=1", b"a=1"),
        (b"api-version=V", b"a=1&api-version=W&api%2Dversion=X&b", b"a=1&b"),
        (b"&", b"a=1", b"a=1"),
    ],
)
def test_the_query_of_the_target_stays(target: bytes, query: bytes, becomes: bytes) -> None:
    assert beside(target, query) == becomes


@pytest.mark.parametrize(
    ("path", "endpoint", "rest"),
    [
        (b"@kitchen/v1/models", "kitchen", b"v1/models"),
        (b"/@kitchen/v1/models", "kitchen", b"v1/models"),
        (b"@kitchen", "kitchen", b""),
        (b"@%E5%8E%A8/v1/models", "厨", b"v1/models"),
        (b"%40kitchen/v1/models", "kitchen", b"v1/models"),
        (b"v1/models", "", b"v1/models"),
        (b"", "", b""),
        (b"v1/@kitchen", "", b"v1/@kitchen"),
        (b"@/v1/models", "", b"@/v1/models"),
        (b"@" + b"x" * 129 + b"/v1", "", b"@" + b"x" * 129 + b"/v1"),
    ],
)
def test_a_first_step_with_an_at_pins_an_endpoint(path: bytes, endpoint: str, rest: bytes) -> None:
    assert pinned(path) == (endpoint, rest)


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("https://openrouter.ai/api/v1", OPENROUTER),
        ("https://OpenRouter.AI:443/api/v1", OPENROUTER),
        ("https://openrouter.ai./api/v1", OPENROUTER),
        ("https://api.openai.com", OPENAI),
        ("https://eu.api.openai.com/v1", OPENAI),
        ("https://r.openai.azure.com/openai/v1", AZURE_KEY),
        ("https://r.services.ai.azure.com/openai/v1", AZURE_KEY),
        ("https://api.anthropic.com", EnvironmentKey("ANTHROPIC_API_KEY", "header:x-api-key")),
        ("http://openrouter.ai/api/v1", None),
        ("https://notopenrouter.ai/api/v1", None),
        ("https://openrouter.ai.example/api/v1", None),
        ("https://example.org/openrouter.ai", None),
        ("http://127.0.0.1:11434/v1", None),
    ],
)
def test_a_key_of_the_environment_is_for_its_own_host_only(target: str, key: EnvironmentKey | None) -> None:
    assert environment_key(target) == key


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        (b"authorization", b"Bearer sk-mine", True),
        (b"authorization", b"Basic abc", True),
        (b"authorization", b"Bearer ", False),
        (b"authorization", b"", False),
        (b"api-key", b"mine", True),
        (b"x-api-key", b"mine", True),
        (b"x-api-key", b" ", False),
        (b"x-title", b"mine", False),
    ],
)
def test_a_client_that_sends_a_key_uses_its_own(name: bytes, value: bytes, shown: bool) -> None:
    assert shows_key([(b"accept", b"*/*"), (name, value)]) is shown
    assert (b"accept", b"*/*") in keyless([(b"accept", b"*/*"), (name, value)])


@pytest.mark.parametrize(("secret", "good"), [("sk-x", True), ("", False), ("a b", False), ("a\nb", False), ("钥", False)])
def test_a_key_that_no_header_can_carry_is_none(secret: str, good: bool) -> None:
    assert usable(secret) is good


def test_the_keys_of_the_environment_are_known_to_whoever_must_hide_them() -> None:
    environ = {"OPENAI_API_KEY": " sk-a\n", "OPENROUTER_API_KEY": "", "AZURE_OPENAI_API_KEY": "b", "OTHER_API_KEY": "c"}
    assert environment_keys(environ) == {"sk-a", "b"}


def test_the_hosts_are_written_as_they_are_compared() -> None:
    assert all(host == host.lower() for host in llm.HOSTS)
