"""The clock is set back by an hour and across UTC midnight while tokens are issued: every token is counted on one day, ids stay in order."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.faults import oracle
from tests.faults.load import TokenLoad
from tests.processes import wait_until
from tests.serving import RunningServer

from agentidp.core.clock import system_clock

HOUR_MS = 3600 * 1000


@pytest.mark.slow
def test_clock_jumps_under_load(own_server: RunningServer, database_url: str, amount: Callable[[int, int], int], table: Any) -> None:
    clock, first = own_server.clock, own_server.first
    to_midnight = oracle.DAY_MS - system_clock() % oracle.DAY_MS
    alone, many = (TokenLoad([own_server.url], first.agent_id, first.client_secret, threads) for threads in (1, 3))
    # forwards over midnight, back before it, an hour back, a second before midnight so that it comes by itself, a day on and back
    shifts = [to_midnight + 500, to_midnight - HOUR_MS, to_midnight - 2 * HOUR_MS, to_midnight - 1000, to_midnight + oracle.DAY_MS, to_midnight - 500]
    jumps = 0
    with alone.running(), many.running():
        for _ in range(amount(1, 20)):
            for shift in shifts:
                so_far = alone.count(), many.count()
                clock.shift_ms = shift
                jumps += 1
                wait_until(lambda so_far=so_far: alone.count() > so_far[0] + 20 and many.count() > so_far[1] + 20)  # type: ignore[misc]
    clock.shift_ms = 0
    assert not alone.wrong
    assert not many.wrong
    record = oracle.read(database_url)
    oracle.require_exact(record, alone.acknowledged + many.acknowledged, 0)
    assert min(record.counters.values()) > 0
    assert len(alone.acknowledged) == len(set(alone.acknowledged))  # their order is the clock's, once it is set back by more than minutes
    days = {day for _, day, meter in record.counters if meter == "tokensIssued"}
    assert len(days) == 3
    table(jumps=jumps, acknowledged=alone.count() + many.count(), days=len(days), miscounted=0, ids_doubled=0)
