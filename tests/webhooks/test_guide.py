"""The guide's numbers, events and examples are those of the code. What it shows is run by tests/stories."""

import re

import pytest
from tests.architecture.source import ROOT

from agentidp.core import limits
from agentidp.webhooks.rules import EVENT_TYPES, Pace

GUIDE = (ROOT / "docs" / "guides" / "webhooks.md").read_text("utf-8")


@pytest.mark.parametrize("path", ["python/receiver.py", "typescript/receiver.ts"])
def test_it_shows_the_receivers_that_are_tested(path: str) -> None:
    example = (ROOT / "docs" / "guides" / "receivers" / path).read_text("utf-8")
    assert f"```{path.split('/', maxsplit=1)[0]}\n{example}```\n" in GUIDE


def test_it_names_every_event() -> None:
    table = GUIDE[GUIDE.index("| Event | When |") : GUIDE.index("## What is sent")]
    assert sorted(re.findall(r"`([a-z_]+\.[a-z_]+)`", table)) == sorted(EVENT_TYPES)


def test_it_has_the_schedule() -> None:
    seconds = [pause // 1000 for pause in Pace().pauses]
    shown = ", ".join(f"{one} s" if one < 60 else f"{one // 60} min" if one < 3600 else f"{one // 3600} h" for one in seconds)
    assert f"\n\n{shown},\n\n" in GUIDE
    assert len(seconds) == 9, "ten times in all"


@pytest.mark.parametrize(
    "shown",
    [
        f"within {limits.OUTGOING_SECONDS_MAX:g} seconds is success",
        f"up to {limits.WEBHOOK_RETRY_AFTER_SECONDS_MAX // 3600} hours",
        f"after {limits.WEBHOOK_EXPIRES_MS // 3_600_000} hours",
        f"for {limits.WEBHOOK_OVERLAP_MS // 3_600_000} hours",
        f"When {limits.WEBHOOK_BACKLOG} wait",
        f"deleted {limits.WEBHOOK_DELIVERIES_KEPT_MS // 86_400_000} days after",
        f"the last {limits.WEBHOOK_HISTORY_MAX} attempts and the first {limits.WEBHOOK_RESPONSE_BYTES:,} bytes",
        f"up to {limits.WEBHOOKS_PER_ORGANIZATION_MAX} webhooks",
    ],
)
def test_it_has_the_bounds(shown: str) -> None:
    assert shown in GUIDE
