"""What is handed out, what is tried again, and what ends a sweep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvkan.orchestrator.plan import Arm, Trial
from cvkan.orchestrator.queue import Job, Pack, Queue
from cvkan.orchestrator.spec import Limits, config_of

ARM = Arm({}, config_of({}), 1, None)


def pack(*keys: str) -> Pack:
    return tuple(Trial(key, ARM, seed, "") for seed, key in enumerate(keys))


def keys(job: Job | None) -> str | None:
    return None if job is None else "".join(trial.key for trial in job.pack)


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def take(queue: Queue) -> Job:
    job = queue.next()
    assert job is not None
    return job


def test_packs_come_in_order_and_then_none() -> None:
    queue = Queue([pack("a"), pack("b", "c")], Limits())
    assert queue.left == 3
    jobs = [take(queue), take(queue)]
    assert [keys(job) for job in jobs] == ["a", "bc"]
    assert (queue.next(), queue.left, queue.running, queue.finished) == (None, 0, 2, False)
    assert [queue.settle(job, ["completed"] * len(job.pack)) for job in jobs] == [[False], [False, False]]
    assert queue.finished
    assert queue.stopped is None


@pytest.mark.parametrize("status", ["failed", "lost"])
def test_what_failed_is_tried_again_alone_and_last(status: str) -> None:
    queue = Queue([pack("a", "b"), pack("c")], Limits(retries=1))
    assert queue.settle(take(queue), ["completed", status]) == [False, True]
    assert keys(take(queue)) == "c"
    again = take(queue)
    assert (keys(again), again.attempt) == ("b", 2)
    assert queue.settle(again, [status]) == [False]
    assert queue.next() is None


@pytest.mark.parametrize("status", ["completed", "stopped", "diverged", "out_of_memory", "timed_out", "interrupted"])
def test_what_would_end_the_same_way_is_not_tried_again(status: str) -> None:
    queue = Queue([pack("a")], Limits(retries=5))
    assert queue.settle(take(queue), [status]) == [False]
    assert queue.finished


@given(st.integers(0, 6))
def test_retries_are_counted_by_trial(retries: int) -> None:
    queue = Queue([pack("a")], Limits(retries=retries, stop_after_failures=100))
    attempts = 0
    while (job := queue.next()) is not None:
        attempts += 1
        queue.settle(job, ["failed"])
    assert attempts == retries + 1


def test_failures_in_a_row_stop_the_sweep() -> None:
    queue = Queue([pack(key) for key in "abcdef"], Limits(retries=0, stop_after_failures=3))
    for status in ("failed", "timed_out", "completed", "lost", "out_of_memory"):
        assert queue.settle(take(queue), [status]) == [False]
        assert queue.stopped is None
    queue.settle(take(queue), ["failed"])
    assert queue.stopped == "3 failures in a row (limits.stop_after_failures)"
    assert queue.next() is None
    assert queue.finished


def test_the_other_results_of_a_pack_break_a_row_of_failures() -> None:
    queue = Queue([pack("a", "b", "c"), pack("d"), pack("e")], Limits(retries=0, stop_after_failures=2))
    queue.settle(take(queue), ["failed", "diverged", "failed"])
    queue.settle(take(queue), ["failed"])
    assert queue.stopped is None
    queue.settle(take(queue), ["failed"])
    assert queue.stopped is not None


def test_a_pack_that_fails_is_one_failure() -> None:
    queue = Queue([pack("a", "b", "c"), pack("d")], Limits(stop_after_failures=2))
    assert queue.settle(take(queue), ["failed"] * 3) == [True] * 3
    assert queue.stopped is None


def test_trials_that_fail_again_do_not_stop_the_sweep() -> None:
    """One broken arm, its retries gathered at the end, is no broken machine."""
    queue = Queue([pack("a"), pack("ok"), pack("b"), pack("fine"), pack("c")], Limits(retries=1, stop_after_failures=2))
    for status in ("failed", "completed", "failed", "completed", "failed"):
        queue.settle(take(queue), [status])
    for _ in range(3):
        queue.settle(take(queue), ["failed"])
    assert queue.stopped is None
    assert queue.finished


def test_an_interrupt_counts_also_when_the_queue_has_stopped_before() -> None:
    queue = Queue([pack("a")], Limits())
    queue.stop("the time is over")
    assert not queue.interrupted
    queue.interrupt("interrupted")
    assert queue.interrupted
    assert queue.stopped == "the time is over"


def test_a_failure_that_stops_the_sweep_is_reported_and_not_put_off() -> None:
    queue = Queue([pack("a"), pack("b")], Limits(retries=3, stop_after_failures=1))
    assert queue.settle(take(queue), ["failed"]) == [False]
    assert queue.left == 1


def test_sweep_time_hands_out_nothing_more() -> None:
    clock = Clock()
    queue = Queue([pack("a"), pack("b")], Limits(sweep_time=60), clock)
    clock.now += 60
    job = take(queue)
    clock.now += 0.1
    assert queue.next() is None
    assert queue.stopped == "limits.sweep_time (60 s) is over"
    assert not queue.finished
    assert queue.settle(job, ["failed"]) == [False]
    assert (queue.finished, queue.left) == (True, 1)


def test_the_first_reason_to_stop_stays() -> None:
    queue = Queue([pack("a")], Limits())
    queue.stop("interrupted")
    queue.stop("something else")
    assert (queue.stopped, queue.next(), queue.finished, queue.left) == ("interrupted", None, True, 1)


@given(st.lists(st.lists(st.sampled_from(["completed", "failed", "lost", "diverged", "timed_out"]), min_size=1, max_size=3), max_size=6))
def test_every_trial_is_settled_for_good_exactly_once(rounds: list[list[str]]) -> None:
    names = iter(f"t{number}," for number in range(100))
    made = [pack(*(next(names) for _ in statuses)) for statuses in rounds]
    expected = [trial.key for trial_pack in made for trial in trial_pack]
    queue = Queue(made, Limits(retries=2, stop_after_failures=1000))
    ends: list[str] = []
    wanted = {
        trial.key: status
        for trial_pack, statuses in zip(made, rounds, strict=True)
        for trial, status in zip(trial_pack, statuses, strict=True)
    }
    while (job := queue.next()) is not None:
        again = queue.settle(job, [wanted[trial.key] for trial in job.pack])
        ends += [trial.key for trial, retry in zip(job.pack, again, strict=True) if not retry]
    assert sorted(ends) == sorted(expected)
    assert queue.finished
