"""The guide's receivers, which use the official libraries of Standard Webhooks, against real deliveries of a running server."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.architecture.source import ROOT
from tests.fakes.fake_receiver import FakeReceiver, Received, receiving
from tests.node import installed, run
from tests.processes import environment, wait_until
from tests.serving import NO_TLS, RunningServer, free_port, settings_for
from tests.tenants import Tenant, make_tenant, registration

RECEIVERS = ROOT / "docs" / "guides" / "receivers"
EVENTS = ["agent.created", "agent.suspended"]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Example:
    """A receiver of the guide as a process. `printed` holds a line for each event that it took."""

    url: str
    output: Path

    @property
    def printed(self) -> list[str]:
        return self.output.read_text().splitlines()

    def answers(self, request: Received) -> int:
        """Hand it a request as it is, from the first byte of the body to the last header."""
        headers = {name: value for name, value in request.headers.items() if name not in {"host", "content-length", "accept-encoding"}}
        return httpx2.post(self.url, content=request.body, headers=headers, trust_env=False, verify=NO_TLS).status_code


Serve = Callable[[str], AbstractContextManager[Example]]


@pytest.fixture(scope="session")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TypeScript receiver, installed as the guide says, from its lock file, and compiled."""
    folder = installed(RECEIVERS / "typescript", tmp_path_factory.mktemp("npm") / "typescript")
    run(["npm", "run", "build"], folder)
    return folder


@pytest.fixture(params=["python", "typescript"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Serve:
    """Starts the receiver of one language with a secret, for the length of a block."""
    if request.param == "python":
        command, folder = [sys.executable, "receiver.py"], RECEIVERS / "python"
    else:
        command, folder = ["node", "receiver.js"], request.getfixturevalue("typescript")

    @contextmanager
    def serve(secret: str) -> Iterator[Example]:
        port = free_port()
        example = Example(f"http://127.0.0.1:{port}/", tmp_path / f"received-{port}.txt")
        with example.output.open("w") as output:
            process = subprocess.Popen(command, cwd=folder, env=environment({"WEBHOOK_SECRET": secret, "PORT": str(port)}), stdout=output)
        try:
            wait_until(lambda: process.poll() is not None or takes_connections(example.url))
            yield example
            assert process.poll() is None, "the receiver ended by itself"
        finally:
            process.terminate()
            process.wait(10)

    return serve


def takes_connections(url: str) -> bool:
    try:
        return bool(httpx2.post(url, trust_env=False, verify=NO_TLS).status_code)
    except httpx2.ConnectError:
        return False


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that may call receivers on this machine."""
    server = RunningServer(settings_for(tmp_path_factory.mktemp("calling"), None, webhooks={"allow_loopback": True}))
    yield server
    server.stop()


@pytest.fixture
def tenant(calling: RunningServer) -> Tenant:
    return make_tenant(calling)


@pytest.fixture
def fake() -> Iterator[FakeReceiver]:
    with receiving() as receiver:
        yield receiver


def add_webhook(tenant: Tenant, url: str) -> dict[str, Any]:
    with tenant.admin.client() as client:
        answer = client.post("/api/v1/webhooks", json={"name": "ops", "url": url, "events": EVENTS})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def ask(tenant: Tenant, path: str) -> dict[str, Any]:
    with tenant.admin.client() as client:
        return dict(client.post(f"/api/v1/webhooks/{path}").json())


def act(tenant: Tenant) -> str:
    """Two events: an agent that is registered, with a name that is more than ASCII, and suspended."""
    with tenant.admin.client() as client:
        agent_id = client.post("/api/v1/agents", json=registration(owner="Łódź 東京 🦊")).json()["agentId"]
        assert client.patch(f"/api/v1/agents/{agent_id}", json={"status": "suspended"}).status_code == 200
    return str(agent_id)


def delivered(fake: FakeReceiver, tenant: Tenant, webhook: dict[str, Any]) -> Received:
    """A delivery as it came."""
    before = len(fake.received)
    ask(tenant, f"{webhook['webhookId']}/test")
    wait_until(lambda: len(fake.received) > before)
    return fake.received[-1]


def changed(request: Received, **headers: str) -> Received:
    return replace(request, headers=request.headers | {name.replace("_", "-"): value for name, value in headers.items()})


def test_a_receiver_is_told_what_happens_in_order(tenant: Tenant, serve: Serve, fake: FakeReceiver) -> None:
    """The secret is there only when the webhook is, so it is made for the fake and moved."""
    webhook = add_webhook(tenant, fake.url)
    with serve(webhook["signingSecret"]) as example, tenant.admin.client() as client:
        assert client.patch(f"/api/v1/webhooks/{webhook['webhookId']}", json={"url": example.url}).status_code == 200
        agent_id = act(tenant)
        wait_until(lambda: len(example.printed) >= 2)
        numbers, names, ids = zip(*(line.split() for line in example.printed), strict=True)
        wait_until(lambda: [one["status"] for one in client.get(f"/api/v1/webhooks/{webhook['webhookId']}/deliveries").json()["data"]] == ["delivered"] * 2)
    assert names == tuple(EVENTS)
    assert ids == (agent_id, agent_id)
    assert int(numbers[1]) > int(numbers[0]) > 0


def test_what_comes_twice_is_taken_once(tenant: Tenant, serve: Serve, fake: FakeReceiver) -> None:
    webhook = add_webhook(tenant, fake.url)
    first = delivered(fake, tenant, webhook)
    with serve(webhook["signingSecret"]) as example:
        assert [example.answers(first), example.answers(first)] == [204, 204]
        assert len(example.printed) == 1


def test_while_a_secret_is_rotated_the_old_and_the_new_one_both_verify(tenant: Tenant, serve: Serve, fake: FakeReceiver) -> None:
    old = add_webhook(tenant, fake.url)
    before = delivered(fake, tenant, old)
    new = ask(tenant, f"{old['webhookId']}/rotate-secret")
    assert new["signingSecret"] != old["signingSecret"]
    during = delivered(fake, tenant, old)
    assert [len(one.headers["webhook-signature"].split()) for one in (before, during)] == [1, 2]
    with serve(old["signingSecret"]) as with_old, serve(new["signingSecret"]) as with_new:
        assert [with_old.answers(before), with_old.answers(during)] == [204, 204]
        assert [with_new.answers(before), with_new.answers(during)] == [400, 204]


def test_after_the_overlap_only_the_new_secret_verifies(calling: RunningServer, serve: Serve, fake: FakeReceiver) -> None:
    with calling.clock.ahead(seconds=-24 * 3600 - 60):
        tenant = make_tenant(calling)
        old = add_webhook(tenant, fake.url)
        new = ask(tenant, f"{old['webhookId']}/rotate-secret")
    after = delivered(fake, tenant, old)
    with serve(old["signingSecret"]) as with_old, serve(new["signingSecret"]) as with_new:
        assert (with_old.answers(after), with_new.answers(after)) == (400, 204)


@pytest.mark.parametrize(("seconds", "status"), [(-360, 400), (-240, 204), (240, 204), (360, 400)])
def test_what_is_not_of_now_is_refused(calling: RunningServer, serve: Serve, fake: FakeReceiver, seconds: int, status: int) -> None:
    """Signed as it should be, by a server whose clock was elsewhere."""
    with calling.clock.ahead(seconds=seconds):
        tenant = make_tenant(calling)
        webhook = add_webhook(tenant, fake.url)
        request = delivered(fake, tenant, webhook)
    with serve(webhook["signingSecret"]) as example:
        assert example.answers(request) == status
        assert len(example.printed) == (status == 204)


def test_what_was_changed_on_the_way_is_refused(tenant: Tenant, serve: Serve, fake: FakeReceiver) -> None:
    webhook, other = (add_webhook(tenant, fake.url) for _ in range(2))
    good, of_other = delivered(fake, tenant, webhook), delivered(fake, tenant, other)
    signature, sent = good.headers["webhook-signature"], int(good.headers["webhook-timestamp"])
    bodies = (b"", b"{}", good.body[:-1], good.body + b"\n", good.body.replace(b"webhook.test", b"agent.created"), b"\xff" + good.body)
    signatures = (
        "",
        "v1",
        "v1,",
        "v2,AAAA",
        "v1,%%%%",
        signature.replace("v1,", "v1a,"),
        signature[:-5],
        signature.swapcase(),
        of_other.headers["webhook-signature"],
    )
    wrong = [
        *(replace(good, body=body) for body in bodies),
        *(changed(good, webhook_signature=text) for text in signatures),
        *(changed(good, webhook_timestamp=text) for text in (str(sent + 1), "now", "")),
        changed(good, webhook_id=of_other.message_id),
        *(replace(good, headers={key: value for key, value in good.headers.items() if key != name}) for name in good.headers if name.startswith("webhook-")),
        of_other,
    ]
    with serve(webhook["signingSecret"]) as example:
        assert [example.answers(request) for request in wrong] == [400] * len(wrong)
        assert example.printed == []
        assert example.answers(good) == 204
