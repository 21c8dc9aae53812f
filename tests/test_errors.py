"""errors: the tables of codes and close reasons."""

from __future__ import annotations

import pytest

from mcp_endpoint import errors
from mcp_endpoint.errors import CloseReason, Code, ConfigError, EndpointError

CODES = {name: value for name, value in vars(errors).items() if isinstance(value, Code)}
CLOSE_REASONS = {name: value for name, value in vars(errors).items() if isinstance(value, CloseReason)}


def test_an_error_is_told_in_both_languages() -> None:
    error = EndpointError("the port is in use", "端口已被占用")
    assert str(error) == "端口已被占用\nthe port is in use"
    assert error.exit_code == 1


def test_a_mistake_in_the_configuration_names_its_place_in_both_languages_and_exits_with_78() -> None:
    error = ConfigError("expected a number", "应为数字", place="a.cfg:3:8")
    assert str(error) == "a.cfg:3:8: 应为数字\na.cfg:3:8: expected a number"
    assert error.exit_code == errors.EXIT_CONFIG == 78


@pytest.mark.row("U9")
def test_every_code_is_its_own_and_says_itself_in_both_languages() -> None:
    reworded = {"NOT_TAKEN", "NOT_LINKED", "TURNED_DOWN"}
    numbers = [code.number for name, code in CODES.items() if name not in reworded]
    assert len(set(numbers)) == len(numbers)
    assert {CODES[name].number for name in reworded} <= set(numbers)
    assert len({code.message for code in CODES.values()}) == len(CODES)
    for code in CODES.values():
        chinese, _, english = code.message.partition(" / ")
        assert any("\u4e00" <= letter <= "\u9fff" for letter in chinese)
        assert english.isascii()


def test_the_code_that_mcp_uses_for_a_missing_resource_is_never_ours() -> None:
    """Design §3.3: -32002 is never emitted."""
    assert -32002 not in [code.number for code in CODES.values()]
    assert errors.NO_PROVIDER.number == -32001
    assert errors.PROVIDER_GONE.number == -32003
    assert Code(-32004, "密钥验证失败 / Not allowed") == errors.NOT_ALLOWED


@pytest.mark.parametrize("name", CLOSE_REASONS)
def test_every_close_reason_fits_a_close_frame(name: str) -> None:
    """RFC 6455 §5.5.1: two bytes of code and at most 123 of reason; 1005, 1006 and 1015 are never sent."""
    close_reason = CLOSE_REASONS[name]
    assert close_reason.reason.isascii()
    assert 0 < len(close_reason.reason) <= 123
    assert close_reason.code in {1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013} or 4000 <= close_reason.code <= 4999
