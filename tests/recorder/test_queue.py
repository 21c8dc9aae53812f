"""The queue is bounded in bytes, drops the newest, and every record that was seen is accounted for."""

from __future__ import annotations

from mcp_endpoint.recorder.batch import GAP
from mcp_endpoint.recorder.queue import OVERHEAD, Queue


class Play:
    """A queue with a clock and a pipe that are numbers."""

    def __init__(self, most: int = 10 * (OVERHEAD + 100), batch: int = 4 * (OVERHEAD + 100)) -> None:
        self.now = 100.0
        self.unsent = 0
        self.woken: list[bool] = []
        self.queue = Queue(most, batch, lambda: self.now, self.woken.append, lambda: self.unsent)

    def put(self, count: int, size: int = 100) -> None:
        for number in range(count):
            self.queue.put((number,), size, truncated=size > 500)


def test_the_first_item_wakes_and_a_whole_batch_wakes_at_once() -> None:
    play = Play()
    play.put(3)
    assert play.woken == [False]
    play.put(1)
    assert play.woken == [False, True]
    items, counted, gap = play.queue.take()
    assert (len(items), counted, gap) == (4, 4, None)
    assert not play.queue.has and play.queue.bytes == 0


def test_when_it_is_full_the_newest_is_dropped_and_a_gap_says_how_many_and_when() -> None:
    play = Play()
    play.put(12)
    play.now = 105.0
    play.put(1)
    queue = play.queue
    assert (queue.seen, queue.dropped) == (13, 3)
    batches = [queue.take() for _ in range(3)]
    assert [counted for _, counted, _ in batches] == [4, 4, 2], "no batch is larger than a batch"
    assert [gap for _, _, gap in batches] == [None, None, (100.0, 105.0, 3)]
    assert batches[-1][0][-1] == (GAP, 100.0, 105.0, 3) and batches[0][0][0] == (0,)
    play.put(1)
    assert queue.take()[2] is None, "a gap is told once"


def test_what_the_pipe_has_not_taken_counts_against_the_same_bound() -> None:
    play = Play()
    play.unsent = 10 * (OVERHEAD + 100) - OVERHEAD - 100
    play.put(2)
    assert (play.queue.seen, play.queue.dropped) == (2, 1)


def test_a_link_is_told_where_there_is_room_and_is_no_record() -> None:
    play = Play(most=2 * OVERHEAD)
    for _ in range(3):
        play.queue.note(("link",))
    assert play.queue.take()[:2] == ([("link",), ("link",)], 0)
    assert (play.queue.seen, play.queue.dropped) == (0, 0)


def test_what_is_lost_on_its_way_opens_the_gap_again() -> None:
    play = Play()
    play.put(11)
    batches = [play.queue.take() for _ in range(3)]
    gap = batches[-1][2]
    assert gap is not None
    play.now = 200.0
    play.queue.lose(sum(counted for _, counted, _ in batches))
    play.queue.lose(0)
    play.queue.reopen(*gap)
    assert play.queue.has and play.queue.dropped == 11
    assert play.queue.take() == ([(GAP, 100.0, 200.0, 11)], 0, (100.0, 200.0, 11))


def test_what_is_forgotten_at_the_end_is_counted_and_opens_no_gap() -> None:
    play = Play()
    play.put(2)
    play.queue.forget(play.queue.take()[1])
    assert play.queue.dropped == 2 and not play.queue.has


def test_what_was_cut_is_counted() -> None:
    play = Play(most=10**6)
    play.put(2, size=600)
    play.put(1)
    assert play.queue.truncated == 2
