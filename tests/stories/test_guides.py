"""Every guide, command by command, each against a fresh server of its own."""

from pathlib import Path

import pytest
from tests.architecture.source import ROOT
from tests.fakes.fake_stripe import FakeStripe, serving_stripe
from tests.stories.tour import follow, matches

GUIDES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "guides").glob("*.md"))

SETTINGS = {"docs/guides/webhooks.md": {"WEBHOOKS__ALLOW_LOOPBACK": "true"}}


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES)
def test_the_guide_works_as_shown(guide: str, tmp_path: Path) -> None:
    with serving_stripe(FakeStripe()) as stripe:
        follow(guide, tmp_path, stripe if "billing" in guide else None, **SETTINGS.get(guide, {}))


def test_what_is_shown_is_compared_exactly_but_for_the_gaps() -> None:
    assert matches('{"id":"…"}\n', '{"id":"42"}')
    assert matches("a\n…\nz", "a\nb\nc\nz\n")
    assert not matches('{"active":true}', '{"active":false}')
    assert not matches("a", "ab")
