"""docs/prometheus-alerts.yml speaks of what /metrics of a running server serves: every metric, every label, every value that is compared with."""

import re
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.architecture.source import ROOT
from tests.serving import RunningServer
from tests.tenants import make_tenant

from agentidp.core import limits
from agentidp.core.metrics import Metrics

FILE = ROOT / "docs" / "prometheus-alerts.yml"
RULES: list[dict[str, Any]] = [rule for group in yaml.safe_load(FILE.read_text("utf-8"))["groups"] for rule in group["rules"]]
NOT_ALARMED = {  # for dashboards
    *("agents_registered", "tokens_issued", "billing_limit_rejections", "db_query_duration_seconds", "db_pool_active_connections"),
    *("event_streams", "nats_events_published"),
}
OF_PROMETHEUS = {"job", "instance", "le"}  # which it adds itself, or which every histogram has

_SELECTOR = re.compile(r"\b(agentidp_\w+|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on)\s*\(([^)]*)\)")


@pytest.fixture
def served(server: RunningServer) -> dict[str, list[dict[str, str]]]:
    """The labels of every sample by its name, after one request that was answered and one that failed."""
    with make_tenant(server).admin.client() as client, server.client() as stranger:
        client.get("/api/v1/agents")
        text = stranger.get("/metrics").text
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_speaks_of_what_is_served(rule: dict[str, Any], served: dict[str, list[dict[str, str]]]) -> None:
    selectors = _SELECTOR.findall(rule["expr"])
    assert selectors
    grouped = {label.strip() for labels in _GROUPING.findall(rule["expr"]) for label in labels.split(",")}
    for name, matchers in selectors:
        if name == "up":  # Prometheus's own
            assert matchers == 'job="agentidp"'
            continue
        assert name in served, f"{name} is not served"
        labels = {label for sample in served[name] for label in sample}
        assert grouped <= labels | OF_PROMETHEUS
        assert len(_MATCHER.findall(matchers)) == len([one for one in matchers.split(",") if one.strip()])
        for label, operator, value in _MATCHER.findall(matchers):
            assert label in labels, f"{name} has no label {label}"
            values = {sample[label] for sample in served[name]}
            wanted = value.split("|") if operator in {"=~", "!~"} else [value]
            assert label == "status_code" or set(wanted) <= values, f"{name}: {label} has none of {wanted}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"AgentIdP\w+", rule["alert"])
    assert re.fullmatch(r"[0-9]+[mh]", rule.get("for", "0m"))
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description"}
    assert rule["annotations"]["description"].endswith(".")


def test_every_metric_has_an_alert_or_a_reason_to_have_none() -> None:
    named = {name for rule in RULES for name, _ in _SELECTOR.findall(rule["expr"])}
    for family in Metrics().registry.collect():
        is_alarmed = any(name.startswith(family.name) for name in named)
        assert is_alarmed != (family.name.removeprefix("agentidp_") in NOT_ALARMED), family.name


def test_the_lag_is_the_one_that_degrades_health() -> None:
    (late,) = [rule["expr"] for rule in RULES if "agentidp_webhook_lag_seconds" in rule["expr"]]
    assert late.endswith(f"> {limits.WEBHOOK_LAG_SECONDS_MAX}")
