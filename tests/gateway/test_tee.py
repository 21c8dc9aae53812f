"""What is kept of exchanges while they go on: by reference, in bounded bytes, without holes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mcp_endpoint.exchanges import Exchange
from mcp_endpoint.gateway.tee import BODIES, CHUNK_BYTES, Recording, Tee


class Recorder:
    """Takes exchanges."""

    def __init__(self, body_bytes: int = 1000) -> None:
        self.body_bytes = body_bytes
        self.taken: list[Exchange] = []

    def exchange(self, exchange: Exchange) -> None:
        self.taken.append(exchange)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def begin(recorder: Recorder, recording: Recording | None = None) -> Tee:
    recording = recording or Recording(recorder, Clock(), lambda: 1_700_000_000.0)
    return recording.begin("model", "127.0.0.1", "POST", [(b"accept", b"*/*"), (b"x-endpoint-key", b"ours")])


def test_an_exchange_is_what_was_asked_and_what_the_client_was_sent_with_its_times() -> None:
    recorder, clock = Recorder(), Clock()
    tee = begin(recorder, Recording(recorder, clock, lambda: 1_700_000_000.0))
    tee.of("kitchen", b"/v1/chat/completions", b"a=1")
    tee.asked(b"{}")
    clock.now += 0.5
    tee.answered(200, [(b"content-type", b"text/event-stream")])
    tee.add(b"")
    clock.now += 0.5
    tee.add(b"one")
    clock.now += 1
    tee.add(b"two")
    tee.end("ok")
    [exchange] = recorder.taken
    assert exchange == Exchange(
        started=1_700_000_000.0,
        ms=2000.0,
        first_ms=1000.0,
        endpoint="kitchen",
        label="model",
        client="127.0.0.1",
        method="POST",
        path="/v1/chat/completions?a=1",
        status=200,
        ending="ok",
        request_headers=[(b"accept", b"*/*")],
        request_body=b"{}",
        answer_headers=[(b"content-type", b"text/event-stream")],
        answer_chunks=[(1.0, b"one"), (2.0, b"two")],
        seen_bytes=8,
        truncated=False,
    )


def test_an_exchange_without_an_answer_has_no_status_and_no_first_byte() -> None:
    recorder = Recorder()
    tee = begin(recorder)
    tee.of("", b"/v1/models", b"")
    tee.end("aborted")
    [exchange] = recorder.taken
    assert (exchange.status, exchange.first_ms, exchange.endpoint, exchange.path) == (0, None, None, "/v1/models")


async def test_a_body_that_is_carried_as_it_comes_is_kept_up_to_its_bound() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"x" * 600, b"y" * 600, b"z"):
            yield piece

    recorder = Recorder()
    tee = begin(recorder)
    assert [len(piece) async for piece in tee.asking(pieces())] == [600, 600, 1]
    tee.add(b"answer")
    tee.end("ok")
    [exchange] = recorder.taken
    assert exchange.request_body == b"x" * 600 + b"y" * 400
    assert (exchange.answer_chunks[0][1], exchange.seen_bytes, exchange.truncated) == (b"answer", 1207, True)


def test_a_chunk_is_kept_as_it_came_and_the_last_is_cut() -> None:
    recorder = Recorder()
    tee = begin(recorder)
    chunk = bytes(700)
    for _ in range(3):
        tee.add(chunk)
    tee.end("ok")
    kept = [piece for _, piece in recorder.taken[0].answer_chunks]
    assert kept[0] is chunk
    assert [len(piece) for piece in kept] == [700, 1000 - 700 - 2 * CHUNK_BYTES]


def test_many_small_chunks_take_no_more_than_one_large_one() -> None:
    recorder = Recorder()
    tee = begin(recorder)
    for _ in range(1000):
        tee.add(b"x")
    tee.end("ok")
    assert len(recorder.taken[0].answer_chunks) == 1000 // (CHUNK_BYTES + 1)
    assert recorder.taken[0].seen_bytes == 1000


def test_all_exchanges_together_are_bounded_and_give_back_what_they_held() -> None:
    recorder = Recorder()
    recording = Recording(recorder, Clock(), lambda: 0.0)
    tees = [begin(recorder, recording) for _ in range(3 * BODIES)]
    for tee in tees:
        tee.asked(bytes(1000))
    assert recording.held == BODIES * 1000
    for tee in tees:
        tee.end("ok")
    assert recording.held == 0
    assert sum(exchange.truncated for exchange in recorder.taken) == 2 * BODIES
