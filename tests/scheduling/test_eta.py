"""Estimated starts are the latest possible ones, and unknown when they depend on an open-ended server."""

from __future__ import annotations

from fastgpu_hub.scheduling.eta import Occupant, Waiter, start_times


def test_free_gpus_start_at_once():
    assert start_times(100, 2, [], [Waiter("a", 1, 50), Waiter("b", 1, 50)]) == {"a": 100, "b": 100}


def test_waiters_start_as_limits_run_out_in_order():
    running = [Occupant(1, 300), Occupant(1, 200)]
    queue = [Waiter("a", 1, 50), Waiter("b", 2, 10), Waiter("c", 1, 5)]
    assert start_times(100, 0, running, queue) == {"a": 200, "b": 300, "c": 310}


def test_open_ended_servers_make_it_unknown_from_there_on():
    running = [Occupant(1, None), Occupant(1, 200)]
    assert start_times(100, 0, running, [Waiter("a", 1, None), Waiter("b", 1, 5)]) == {"a": 200, "b": None}
