"""The ring: whole blocks in their order, a high-water mark, and nobody left waiting."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest

from custody.faults import Fault, FaultKind
from custody.tape.stream.ring import Abandoned, Ring

BLOCK = 1000


def _ring(blocks: int = 8, **options: float) -> Ring:
    return Ring(blocks * BLOCK, block_bytes=BLOCK, **options)


def _run(ring: Ring, source: bytes, *, pause_s: float = 0.0) -> tuple[list[threading.Thread], list[bytes]]:
    looked_at: list[bytes] = []
    dice = random.Random(3)

    def fill() -> None:
        position = 0
        while position < len(source):
            free = ring.reserve()
            count = min(len(free), dice.randint(1, 3000), len(source) - position)
            free[:count] = source[position : position + count]
            position += count
            time.sleep(pause_s)
            ring.commit(count)
        ring.end_input()

    def inspect() -> None:
        while (view := ring.inspect()) is not None:
            looked_at.append(bytes(view))
            ring.pass_on(len(view))
        ring.end()

    return [ring.start_hand(fill, "fill"), ring.start_hand(inspect, "inspect")], looked_at


def _take_all(ring: Ring) -> list[bytes]:
    blocks = []
    while (block := ring.take()) is not None:
        blocks.append(bytes(block))
        ring.give_back(len(block))
    return blocks


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 7999, 8000, 123_456])
def test_everything_comes_out_in_whole_blocks_and_was_looked_at(size: int) -> None:
    source = os.urandom(size)
    ring = _ring()
    threads, looked_at = _run(ring, source)
    blocks = _take_all(ring)
    for thread in threads:
        thread.join(20)
    assert b"".join(blocks) == b"".join(looked_at) == source
    assert all(len(block) == BLOCK for block in blocks[:-1])


def test_the_taker_starts_at_high_water_and_counts_under_runs() -> None:
    ring = _ring(10, high_water=0.9)
    started = threading.Event()

    def take() -> None:
        ring.take()
        started.set()
        ring.give_back(BLOCK)
        _take_all(ring)

    taker = ring.start_hand(take, "take")

    def put(count: int) -> None:
        for _ in range(count):
            ring.append(bytes(BLOCK))
            view = ring.inspect()
            assert view is not None
            ring.pass_on(len(view))

    put(8)
    assert not started.wait(0.3)
    put(1)
    assert started.wait(20)
    deadline = time.monotonic() + 20
    while not ring.counts.underruns:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    put(1)  # after an under-run it waits for high water again, or the end
    ring.end_input()
    ring.end()
    taker.join(20)
    assert ring.error is None
    assert ring.counts.underruns == 1
    assert ring.counts.waited_s > 0.2


@pytest.mark.parametrize("hand", ["reserve", "inspect", "take"])
def test_a_failure_of_one_hand_ends_the_others_and_is_kept(hand: str) -> None:
    ring = _ring()
    ended = threading.Event()

    def wait() -> None:
        if hand == "reserve":
            while True:
                ring.commit(len(ring.reserve()))
        try:
            getattr(ring, hand)()
        finally:
            ended.set()

    def guarded() -> None:
        with pytest.raises(Abandoned):
            wait()
        ended.set()

    thread = ring.start_hand(guarded, "wait")
    time.sleep(0.05)
    first = ValueError("the first")
    ring.fail(first)
    ring.fail(ValueError("the second"))
    assert ended.wait(20)
    thread.join(20)
    assert ring.error is first
    assert any("the second" in note for note in first.__notes__)


def test_a_stop_reaches_whoever_waits() -> None:
    stop = threading.Event()
    ring = Ring(8 * BLOCK, block_bytes=BLOCK, stop=stop)
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Fault) as caught:
        ring.take()
    assert caught.value.kind is FaultKind.CANCELLED


def test_an_exception_in_a_thread_is_not_lost() -> None:
    ring = _ring()

    def fail() -> None:
        raise MemoryError("in a thread")

    ring.start_hand(fail, "fail")
    with pytest.raises(Abandoned):
        ring.take()
    assert isinstance(ring.error, MemoryError)


def test_what_is_cut_off_never_reaches_the_taker() -> None:
    ring = _ring()
    ring.append(b"a" * 1500 + b"\0" * 6500)
    view = ring.inspect()
    assert view is not None
    ring.pass_on(len(view), hold_from=1500)
    ring.cut(1500)
    for _ in range(100):
        ring.commit(len(ring.reserve()))  # dropped, however much it is
    ring.end_input()
    ring.append(b"tail")
    assert bytes(ring.inspect_now() or b"") == b"tail"
    ring.pass_on(4)
    ring.end()
    assert b"".join(_take_all(ring)) == b"a" * 1500 + b"tail"


def test_a_source_that_never_ends_after_its_end_is_a_fault() -> None:
    ring = Ring(64 << 20, block_bytes=1 << 20)
    ring.cut(0)
    with pytest.raises(Fault) as caught:
        while True:
            ring.commit(len(ring.reserve()))
    assert caught.value.kind is FaultKind.DATA


def test_too_small_a_buffer_is_refused() -> None:
    with pytest.raises(Fault, match="raise the buffer") as caught:
        Ring(3 * BLOCK, block_bytes=BLOCK)
    assert caught.value.kind is FaultKind.CONFIG
