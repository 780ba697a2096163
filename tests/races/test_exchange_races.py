"""One outside token, and one registration token, 50 at once: on SQLite one server, on PostgreSQL two on one database; and again after a restart."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.fake_issuers import FakeGitHub, serving_issuer
from tests.policies.conftest import Trust
from tests.races.test_races import at_once, bearer
from tests.serving import RunningServer, settings_for
from tests.tenants import make_tenant, registration

AT_ONCE = 50


class Pair:
    """The servers of one database, which may be started anew."""

    def __init__(self, database_url: str, folder: Path, engine: str, github: FakeGitHub) -> None:
        trusting = {"webhooks": {"allow_loopback": True}, "oidc": {"github_issuer": github.url}}
        first = settings_for(folder, database_url, **trusting)
        self._settings = [first]
        if engine == "postgresql":
            self._settings.append(settings_for(folder, database_url, **trusting, issuer=first.issuer))
        self.servers: list[RunningServer] = []

    def start(self) -> None:
        self.servers = [RunningServer(settings) for settings in self._settings]

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


@pytest.fixture
def github() -> Iterator[FakeGitHub]:
    with serving_issuer(FakeGitHub()) as running:
        assert isinstance(running, FakeGitHub)
        yield running


@pytest.fixture
def pair(database_url: str, tmp_path: Path, engine: str, github: FakeGitHub) -> Iterator[Pair]:
    made = Pair(database_url, tmp_path / "data", engine, github)
    made.start()
    with contextlib.ExitStack() as stack:
        stack.callback(made.stop)
        yield made


def counted(pair: Pair, path: str, **options: Any) -> Counter[tuple[int, str]]:
    answers = at_once(pair.servers, AT_ONCE, lambda client, _: client.post(path, **options))
    return Counter((answer.status_code, answer.json().get("code", "")) for answer in answers)


REPLAYED = (401, "OIDC_TOKEN_REPLAYED")


def test_an_outside_token_is_exchanged_once(pair: Pair, github: FakeGitHub) -> None:
    trust = Trust(make_tenant(pair.servers[0]))
    trust.policy(agentId=trust.tenant.agent().agent_id)
    for _ in range(3):  # also the first, when the repository's numbers are recorded
        body = {"token": github.token(trust.audience)}
        assert counted(pair, "/api/v1/oidc/token", json=body) == {(200, ""): 1, REPLAYED: AT_ONCE - 1}
    assert len(trust.events("token.exchanged")) == 3
    assert len(trust.events("policy.repository_recorded")) == 1
    pair.stop()
    pair.start()
    assert counted(pair, "/api/v1/oidc/token", json=body) == {REPLAYED: AT_ONCE}


def test_an_outside_token_gives_one_registration_token_which_registers_one_agent(pair: Pair, github: FakeGitHub) -> None:
    trust = Trust(make_tenant(pair.servers[0]))
    trust.policy(agentId=None)
    body = {"token": github.token(trust.audience)}
    answers = at_once(pair.servers, AT_ONCE, lambda client, _: client.post("/api/v1/oidc/token", json=body))
    (token,) = [answer.json()["access_token"] for answer in answers if answer.status_code == 200]
    registered = at_once(pair.servers, AT_ONCE, lambda client, _: client.post("/api/v1/agents", json=registration(), headers=bearer(token)))
    assert Counter(answer.status_code for answer in registered) == {201: 1, 401: AT_ONCE - 1}
    pair.stop()
    pair.start()
    again = at_once(pair.servers, AT_ONCE, lambda client, _: client.post("/api/v1/agents", json=registration(), headers=bearer(token)))
    assert Counter(answer.status_code for answer in again) == {401: AT_ONCE}
    assert counted(pair, "/api/v1/oidc/token", json=body) == {REPLAYED: AT_ONCE}


def test_two_repositories_of_one_name_come_at_once(pair: Pair, github: FakeGitHub) -> None:
    """Whoever is recorded first has it; the other never gets a token."""
    trust = Trust(make_tenant(pair.servers[0]))
    trust.policy(agentId=trust.tenant.agent().agent_id)
    tokens = [github.token(trust.audience, repository_id=str(1 + number % 2), repository_owner_id=str(1 + number % 2)) for number in range(20)]
    answers = at_once(pair.servers, len(tokens), lambda client, number: client.post("/api/v1/oidc/token", json={"token": tokens[number]}))
    by_repository = [Counter(answer.status_code for answer in answers[number::2]) for number in (0, 1)]
    assert sorted(map(sorted, by_repository)) == [[200], [403]]


def test_no_process_goes_on_with_old_policies(pair: Pair, github: FakeGitHub) -> None:
    """What one process has changed, the next request at any other finds changed: a policy that is gone, and one more that makes two agents of one."""
    trust = Trust(make_tenant(pair.servers[0]))
    policy = trust.policy(agentId=trust.tenant.agent().agent_id)

    def statuses() -> list[int]:
        return [
            answer.status_code
            for answer in at_once(pair.servers, 8, lambda client, _: client.post("/api/v1/oidc/token", json={"token": github.token(trust.audience)}))
        ]

    assert statuses() == [200] * 8
    second = trust.policy(agentId=trust.tenant.agent().agent_id)
    assert statuses() == [403] * 8
    trust.delete(policy["policyId"])
    assert statuses() == [200] * 8
    trust.delete(second["policyId"])
    registers = trust.policy(agentId=None)
    assert statuses() == [200] * 8, "what led to an agent registers one now"
    trust.delete(registers["policyId"])
    assert statuses() == [401] * 8
