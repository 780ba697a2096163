"""Clients that publish their keys (`jwksUri`): fetched when an assertion names one, from a real server, and no client is believed while nobody can tell."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.auth.test_jwk import EC
from tests.credentials.test_api import LISTED, path_of, refused
from tests.fakes.fake_issuers import KEYS, FakeIssuer, serving_issuer
from tests.proofs import TOKEN, OwnKey, asserted, register
from tests.serving import RunningServer, settings_for
from tests.tenants import Tenant, TestAgent, make_tenant

from agentidp.core import limits
from agentidp.core.clock import to_rfc3339

ENDPOINTS = (TOKEN, "/api/v1/token/introspect", "/api/v1/token/revoke")


@pytest.fixture
def publisher() -> Iterator[FakeIssuer]:
    with serving_issuer(FakeIssuer()) as running:
        running.published = []
        yield running


@pytest.fixture
def calling(database_url: str, tmp_path: Path) -> Iterator[RunningServer]:
    """A server that may call this machine."""
    running = RunningServer(settings_for(tmp_path / "data", database_url, webhooks={"allow_loopback": True}))
    yield running
    running.stop()


@pytest.fixture
def agent(calling: RunningServer) -> TestAgent:
    return make_tenant(calling).agent()


def publish(publisher: FakeIssuer, *keys: OwnKey) -> None:
    publisher.published = [key.jwk | {"kid": key.thumbprint} for key in keys]


def register_address(agent: TestAgent, address: str) -> httpx2.Response:
    with agent.client("openid") as client:
        return client.post(path_of(agent), json={"kind": "public_key", "jwksUri": address})


def send(agent: TestAgent, key: OwnKey, path: str = TOKEN, **header: Any) -> httpx2.Response:
    form = asserted(key.assertion(agent, {"kid": key.thumbprint} | header), **({"token": "x"} if path != TOKEN else {}))
    with agent.server.client() as client:
        return client.post(path, data=form)


def test_a_published_key_authenticates_everywhere(agent: TestAgent, publisher: FakeIssuer) -> None:
    keys = OwnKey(), OwnKey("Ed25519")
    publish(publisher, *keys)
    created = register_address(agent, publisher.url + KEYS).json()
    assert (created.keys(), created["kind"], created["hint"]) == (LISTED, "public_key", "127.0.0.1")
    for path in ENDPOINTS:
        assert [send(agent, key, path).status_code for key in keys] == [200, 200]
    assert publisher.requests == [KEYS], "fetched once"
    assert send(agent, keys[0], kid=None).status_code == 401, "which one is meant?"
    assert send(agent, keys[0], kid=keys[1].thumbprint).status_code == 401
    assert send(agent, OwnKey()).status_code == 401
    with agent.client("openid") as client:
        assert client.delete(f"{path_of(agent)}/{created['credentialId']}").status_code == 204
    assert send(agent, keys[0]).status_code == 401
    assert publisher.requests == [KEYS]


def test_keys_come_and_go_where_they_are_published(agent: TestAgent, publisher: FakeIssuer) -> None:
    first, second = OwnKey(), OwnKey()
    publish(publisher, first)
    register_address(agent, publisher.url + KEYS)
    assert send(agent, first).status_code == 200
    publish(publisher, second)
    clock = agent.server.clock
    assert [send(agent, key).status_code for key in (first, second, second)] == [200, 401, 401], "asked less than a minute ago"
    with clock.ahead(seconds=limits.OUTSIDE_UNKNOWN_KEY_SECONDS):
        assert [send(agent, key).status_code for key in (second, first)] == [200, 401]
    assert publisher.requests == [KEYS] * 2


def test_a_registered_key_needs_nobody(agent: TestAgent, publisher: FakeIssuer) -> None:
    own = OwnKey()
    register(agent, own)
    register_address(agent, publisher.url + KEYS)
    assert [send(agent, own).status_code, send(agent, own, kid=None).status_code] == [200, 200]
    assert publisher.requests == []


def test_while_nobody_answers_nobody_is_believed(agent: TestAgent, publisher: FakeIssuer) -> None:
    key = OwnKey()
    publish(publisher, key)
    register_address(agent, publisher.url + KEYS)
    wrong: dict[str, tuple[int, dict[str, str], bytes]] = {
        "an error": (500, {}, b"{}"),
        "a redirect": (302, {"Location": f"{publisher.url}/other"}, b""),
        "no JSON": (200, {}, b"<html>"),
        "no key set": (200, {}, b"[]"),
        "enormous": (200, {}, b" " * (limits.OUTGOING_ANSWER_BYTES_MAX + 1) + b'{"keys":[]}'),
    }
    for minutes, answer in enumerate(wrong.values()):
        publisher.answers = {KEYS: answer}
        with agent.server.clock.ahead(seconds=60 * minutes):
            response = send(agent, key)
            assert (response.status_code, response.json()["error"]) == (503, "temporarily_unavailable")
            assert response.headers["retry-after"]
    publisher.answers = {}
    with agent.server.clock.ahead(seconds=600):
        assert send(agent, key).status_code == 200
    publisher.is_down = True
    for seconds, status in ((1200, 200), (600 + limits.OUTSIDE_KEYS_STALE_SECONDS_MAX + 60, 503)):
        with agent.server.clock.ahead(seconds=seconds):
            assert send(agent, key).status_code == status


def test_an_agent_publishes_its_keys_in_one_place(agent: TestAgent, publisher: FakeIssuer) -> None:
    first = register_address(agent, publisher.url + KEYS)
    assert refused(register_address(agent, publisher.url + "/other"), 409, "CONFLICT")
    with agent.client("openid") as client:
        assert client.delete(f"{path_of(agent)}/{first.json()['credentialId']}").status_code == 204
    assert register_address(agent, publisher.url + "/other").status_code == 201


@pytest.mark.parametrize("instead", ["another address", "a key"])
def test_a_dead_address_is_replaced_by_what_works(agent: TestAgent, publisher: FakeIssuer, instead: str) -> None:
    """What a process has in memory of the client is read anew before the answer is that nobody can tell."""
    key = OwnKey()
    publish(publisher, key)
    dead = register_address(agent, publisher.url + "/dead").json()["credentialId"]
    assert send(agent, key).status_code == 503
    with agent.client("openid") as client:
        assert client.delete(f"{path_of(agent)}/{dead}").status_code == 204
    if instead == "a key":
        register(agent, key)
    else:
        assert register_address(agent, publisher.url + KEYS).status_code == 201
    assert [send(agent, key, path).status_code for path in ENDPOINTS] == [200] * 3


def test_a_dead_address_that_is_gone_makes_nobody_wait(agent: TestAgent, publisher: FakeIssuer) -> None:
    """With another key left, the answer is that this one is none of the client's."""
    dead = register_address(agent, publisher.url + "/dead").json()["credentialId"]
    assert send(agent, OwnKey()).status_code == 503
    register(agent, OwnKey())
    with agent.client("openid") as client:
        assert client.delete(f"{path_of(agent)}/{dead}").status_code == 204
    assert send(agent, OwnKey()).status_code == 401


def test_a_dead_address_is_nothing_to_a_registered_key(agent: TestAgent, publisher: FakeIssuer) -> None:
    own = OwnKey()
    register_address(agent, publisher.url + "/dead")
    assert send(agent, own).status_code == 503
    register(agent, own)
    assert send(agent, own).status_code == 200


def test_an_expired_address_blocks_no_other(agent: TestAgent, publisher: FakeIssuer) -> None:
    key, clock = OwnKey(), agent.server.clock
    publish(publisher, key)
    with agent.client("openid") as client:
        body = {"kind": "public_key", "jwksUri": publisher.url + "/dead", "expiresAt": to_rfc3339(clock() + 60_000)}
        assert client.post(path_of(agent), json=body).status_code == 201
    assert send(agent, key).status_code == 503
    publisher.requests.clear()
    with clock.ahead(seconds=61):
        assert register_address(agent, publisher.url + KEYS).status_code == 201
        assert send(agent, key).status_code == 200
        assert publisher.requests == [KEYS], "the other is not asked any longer"
        assert refused(register_address(agent, publisher.url + "/third"), 409, "CONFLICT")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://keys.example.com/jwks.json", "scheme"),
        ("https://127.0.0.1/jwks.json", "forbidden_address"),
        ("https://169.254.169.254/latest", "forbidden_address"),
        ("https://localhost/jwks.json", "forbidden_address"),
        ("https://user@keys.example.com/jwks.json", "userinfo"),
        ("https://keys.example.com:22/", "port"),
        ("https://keys.example.com/a\\b", "characters"),
    ],
)
def test_an_address_that_may_not_be_called_is_refused_at_once(own_server: RunningServer, address: str, reason: str) -> None:
    tenant = make_tenant(own_server)  # of a server as in production: nothing inside may be called
    response = register_address(tenant.admin, address)
    assert refused(response, 400, "VALIDATION_ERROR")
    assert response.json()["details"]["reason"] == reason


@pytest.mark.parametrize(
    "body",
    [
        {"jwksUri": "https://keys.example.com/"},
        {"kind": "public_key", "jwksUri": "https://keys.example.com/", "jwk": EC},
        {"kind": "public_key", "jwksUri": ""},
    ],
)
def test_one_or_the_other(tenant: Tenant, body: dict[str, Any]) -> None:
    with tenant.admin.client() as client:
        assert refused(client.post(path_of(tenant.admin), json=body), 400, "VALIDATION_ERROR")
