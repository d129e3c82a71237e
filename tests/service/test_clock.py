"""Promise 11: the clock set back an hour or forward a day makes no negative interval and is flagged, not billed."""

from __future__ import annotations

import pytest

from fastgpu_hub.service.clock import SystemClock

HOUR_MS = 3_600_000


class Machine:
    def __init__(self) -> None:
        self.wall, self.steady = 1_760_000_000_000, 5_000

    def pass_ms(self, ms: int) -> None:
        self.wall += ms
        self.steady += ms

    def clock(self) -> SystemClock:
        return SystemClock(lambda: self.wall, lambda: self.steady)


@pytest.mark.parametrize("jump", [-HOUR_MS, 24 * HOUR_MS])
def test_a_jump_is_flagged_and_not_followed(jump, caplog):
    machine = Machine()
    clock = machine.clock()
    before = clock.now_ms()
    machine.wall += jump
    for _ in range(3):
        machine.pass_ms(1000)
        clock.now_ms()
    assert clock.now_ms() == before + 3000
    assert len(caplog.records) == 1
    assert "jumped" in caplog.text
    assert machine.clock().now_ms() == before + jump + 3000  # a restart takes the new time


@pytest.mark.parametrize("correction", [-900, 900])
def test_a_small_correction_is_followed_and_time_never_runs_backwards(correction, caplog):
    machine = Machine()
    clock = machine.clock()
    before = clock.now_ms()
    machine.wall += correction
    assert clock.now_ms() == before + max(0, correction)
    machine.pass_ms(2000)
    assert clock.now_ms() == before + correction + 2000
    assert not caplog.records


def test_a_jump_and_back_leaves_the_time_as_it_was():
    machine = Machine()
    clock = machine.clock()
    before = clock.now_ms()
    machine.wall += 24 * HOUR_MS
    machine.pass_ms(500)
    clock.now_ms()
    machine.wall -= 24 * HOUR_MS
    machine.pass_ms(500)
    assert clock.now_ms() == before + 1000
