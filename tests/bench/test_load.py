"""The load generator counts what it sends, and the report says what was measured and what was not."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from bench.load import NUMBER, Plan, http, run_load
from bench.processes import ROOT, Absent, Server, free_port

from bench import figures, report


@pytest.fixture
def target(tmp_path: Any) -> Iterator[Server]:
    """A server that answers everything with the same 200."""
    port = free_port()
    server = Server("target", [sys.executable, "-m", "bench.target", str(port)], tmp_path, port, cwd=ROOT)
    server.wait_ready()
    yield server
    server.stop()


def plan(server: Server, **more: Any) -> Plan:
    return Plan(server.port, [http("POST", "/", server.port, {"X-Number": NUMBER}, "a=b")], 4, 0.5, **more)


def test_the_closed_loop_sends_as_fast_as_it_is_answered(target: Server) -> None:
    outcome = run_load(plan(target), generator="own")
    assert outcome.errors == 0
    assert outcome.requests > 10
    assert 0 < outcome.p50_ms <= outcome.p99_ms


def test_the_open_loop_sends_no_more_than_its_rate(target: Server) -> None:
    outcome = run_load(plan(target, rate=100))
    assert outcome.errors == 0
    assert 1 <= outcome.requests <= 51


def test_answers_other_than_2xx_are_errors(server: Any) -> None:
    port = int(server.url.rpartition(":")[2])
    outcome = run_load(Plan(port, [http("GET", "/nowhere", port)], 1, 0.5), generator="own")
    assert outcome.errors >= outcome.requests > 0
    assert "404" in outcome.samples[0]


def test_a_server_that_does_not_start_is_absent_with_the_reason(tmp_path: Any) -> None:
    server = Server("broken", [sys.executable, "-c", "raise SystemExit('out of order')"], tmp_path, free_port())
    with pytest.raises(Absent, match="out of order"):
        server.wait_ready()


def test_figures_are_medians_of_ratios_round_by_round() -> None:
    slow, fast = ([{"rate": rate * factor, "cpu_us": 1e6 / factor} for rate in (100, 200, 10)] for factor in (1, 2))
    results = {"tokens": {"contestants": {"sqlite": {"rounds": slow}, "ceiling": {"rounds": fast}}, "absent": {"node": "Node.js is not installed"}}}
    against_ceiling, _, against_node, *_ = figures.find(results)
    assert (against_ceiling.value, against_ceiling.by_cpu, against_ceiling.verdict) == (0.5, 0.5, "not reached")
    assert (against_node.value, against_node.reason) == (None, "Node.js is not installed")


def test_the_chart_shows_who_was_measured() -> None:
    contestants = {"sqlite": {"label": "AgentIdP, SQLite", "rate": 4000.0}, "original": {"label": "the original design", "rate": 12.5}}
    drawn = report.chart({"date": "2026-01-01", "tokens": {"contestants": contestants}})
    assert drawn.count("<rect") == 3
    assert ">4,000<" in drawn
    assert ">12.5<" in drawn
