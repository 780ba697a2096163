"""The table of plans, and what settings and the flag make of it."""

from pathlib import Path

import pytest
from tests.serving import settings_for

from agentidp.core.config import load
from agentidp.core.errors import WrongSettings
from agentidp.core.plans import TIERS, PlanSettings, limit_of, plans_in_force


def test_the_table() -> None:
    plans = plans_in_force(PlanSettings(), enforced=True)
    assert {tier: tuple(plan.model_dump().values()) for tier, plan in plans.items()} == {
        "free": (10, 1_000, 1_000, 100, 90),
        "pro": (100, 50_000, 50_000, 1_000, 365),
        "enterprise": (None, None, None, 10_000, None),
    }
    assert tuple(plans) == TIERS


def test_one_number_changes_by_the_environment_and_the_rest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTIDP_PLANS__FREE__MAX_AGENTS", "3")
    monkeypatch.setenv("AGENTIDP_PLANS__PRO__MAX_CALLS_PER_DAY", "0")
    plans = load().plans
    assert plans.free == PlanSettings().free.model_copy(update={"max_agents": 3})
    assert plans.pro == PlanSettings().pro.model_copy(update={"max_calls_per_day": None})
    assert plans.enterprise == PlanSettings().enterprise


@pytest.mark.parametrize(
    "wrong",
    [
        {"free": {"max_agents": -1}},
        {"free": {"max_agents": 10**9 + 1}},
        {"free": {"requests_per_minute": 0}},
        {"free": {"max_agent": 1}},
        {"gold": {}},
        {"pro": {"max_tokens_per_day": "many"}},
    ],
)
def test_what_is_no_plan_is_a_wrong_setting(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(WrongSettings, match="plans"):
        settings_for(tmp_path, None, plans=wrong)


def test_without_enforcement_only_the_rate_is_limited() -> None:
    for plan in plans_in_force(PlanSettings(), enforced=False).values():
        assert (plan.max_agents, plan.max_calls_per_day, plan.max_tokens_per_day, plan.audit_kept_days) == (None, None, None, None)
    assert [plan.requests_per_minute for plan in plans_in_force(PlanSettings(), enforced=False).values()] == [100, 1_000, 10_000]


@pytest.mark.parametrize(("own", "plan", "limit"), [(None, None, None), (None, 5, 5), (3, 5, 3), (7, 5, 7), (0, 5, 0), (3, None, 3)])
def test_an_organizations_own_limit_goes_before_its_plans(own: int | None, plan: int | None, limit: int | None) -> None:
    assert limit_of(own, plan) == limit
