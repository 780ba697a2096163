"""Every guide, command by command, each against a fresh server of its own."""

from functools import partial
from pathlib import Path

import pytest
from tests.architecture.source import ROOT
from tests.fakes.fake_issuers import FakeGitHub, FakeGitLab, FakeIssuer, FakeKubernetes, serving_issuer
from tests.fakes.fake_stripe import FakeStripe, serving_stripe
from tests.processes import ServerProcess
from tests.stories.tour import follow, matches

ISSUERS: dict[str, type[FakeIssuer]] = {"github-actions": FakeGitHub, "gitlab": FakeGitLab, "kubernetes": FakeKubernetes}
GUIDES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "guides").glob("*.md"))


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES)
def test_the_guide_works_as_shown(guide: str, tmp_path: Path) -> None:
    if (kind := ISSUERS.get(Path(guide).stem)) is not None:
        with serving_issuer(kind()) as issuer:
            names = {FakeGitHub: "OIDC__GITHUB_ISSUER", FakeGitLab: "OIDC__GITLAB_ISSUER"}
            trusting = {"WEBHOOKS__ALLOW_LOOPBACK": "true"} | ({names[kind]: issuer.url} if kind in names else {})
            follow(guide, tmp_path, settings=trusting, prepare=partial(workload, issuer, tmp_path))
        return
    with serving_stripe(FakeStripe()) as stripe:
        follow(guide, tmp_path, stripe if "billing" in guide else None)


def workload(issuer: FakeIssuer, folder: Path, server: ServerProcess) -> dict[str, str]:
    """What a job or a pod finds in its environment."""
    token = issuer.token(f"{server.url}/organizations/{server.first['organizationId']}")
    (folder / "pod-token").write_text(token)
    asking = {"ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/request?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "fake"}
    return asking | {"ID_TOKEN": token, "CLUSTER": issuer.url, "TOKEN_FILE": str(folder / "pod-token")}


def test_what_is_shown_is_compared_exactly_but_for_the_gaps() -> None:
    assert matches('{"id":"…"}\n', '{"id":"42"}')
    assert matches("a\n…\nz", "a\nb\nc\nz\n")
    assert not matches('{"active":true}', '{"active":false}')
    assert not matches("a", "ab")
