"""What is kept of a server's last words."""

from __future__ import annotations

from mcp_endpoint.providers.process.stderr import LINE_BYTES, LINES_KEPT, StderrTail


def test_lines_are_kept_in_order_and_only_the_last() -> None:
    told: list[str] = []
    words = StderrTail(str, told.append)
    words.feed(b"on")
    words.feed(b"e\n\n  \ntwo\r\nthr")
    assert words.last() == told == ["one", "two"]
    for number in range(LINES_KEPT + 5):
        words.feed(b"line %d\n" % number)
    assert len(words.last()) == LINES_KEPT
    assert words.last(2) == [f"line {LINES_KEPT + 3}", f"line {LINES_KEPT + 4}"]


def test_no_secret_and_nothing_that_moves_a_cursor_is_kept() -> None:
    words = StderrTail(lambda text: text.replace("hunter2", "***"))
    words.feed(b"password is hunter2\nAPI_KEY=sk-0123456789abcdef \x1b[31mred\xff\n")
    assert words.last() == ["password is ***", "API_KEY=*** \\x1b[31mred�"]


def test_an_endless_line_takes_no_memory() -> None:
    words = StderrTail(str)
    for _ in range(100):
        words.feed(b"x" * LINE_BYTES)
    words.feed(b"\n")
    (line,) = words.last()
    assert line.endswith("…") and len(line) <= LINE_BYTES + 1
