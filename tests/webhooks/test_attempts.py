"""Receivers that fail, on both engines: when an attempt is made again, when it is given up, and what is never called."""

import json
from collections.abc import Callable

import pytest
from tests.fakes.fake_receiver import ZEROS, Behaviour, FakeReceiver, receiving
from tests.webhooks.desk import Desk

from agentidp.core import limits
from agentidp.core.outgoing import Outgoing
from agentidp.webhooks import actions
from agentidp.webhooks.rules import Pace

Visit = Callable[..., None]
DAY = 24 * 3600


def test_ten_attempts_over_a_day_then_it_is_given_up(visit: Visit, receiver: FakeReceiver) -> None:
    receiver.behaviour = Behaviour(status=lambda _: 500, body=b"\xff" + b"x" * 5000)

    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act()
        await desk.send()
        for pause in Pace().pauses:
            (waiting,) = await desk.deliveries(made.webhook)
            assert (waiting.status, waiting.completed_at) == ("failed", None)
            at = waiting.history[-1]["attemptedAt"] + waiting.history[-1]["latencyMs"]
            assert waiting.next_attempt_at == at + pause
            desk.pass_time(seconds=pause / 1000 - 2)
            await desk.send()
            assert len(receiver.received) == waiting.attempts, "not before its time"
            desk.pass_time(seconds=2 + limits.WEBHOOK_PAUSE_MS_MAX / 1000)
            await desk.send()
        (ended,) = await desk.deliveries(made.webhook)
        assert (ended.status, ended.attempts, ended.next_attempt_at) == ("dead_letter", 10, None)
        assert [(entry["statusCode"], entry["error"]) for entry in ended.history] == [(500, "status")] * 10
        assert len(set(receiver.ids)) == 1
        assert ended.response_body == "\ufffd" + "x" * 2047
        assert 22 < sum(Pace().pauses) / 3_600_000 < 25

    visit(happens)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (Behaviour(status=lambda _: 404), "status"),
        (Behaviour(status=lambda _: -1), "closed"),
        (Behaviour(status=lambda _: -2), "protocol"),
        (Behaviour(status=lambda _: 0), "timeout"),
    ],
    ids=["not found", "hangs up", "no HTTP", "never answers"],
)
def test_what_is_no_success_is_tried_again(visit: Visit, receiver: FakeReceiver, behaviour: Behaviour, error: str) -> None:
    receiver.behaviour = behaviour

    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act()
        await desk.send()
        (failed,) = await desk.deliveries(made.webhook)
        assert (failed.status, failed.history[-1]["error"]) == ("failed", error)
        receiver.behaviour = Behaviour()
        desk.pass_time(seconds=6)
        await desk.send()
        (delivered,) = await desk.deliveries(made.webhook)
        assert (delivered.status, delivered.attempts) == ("delivered", 2)

    visit(happens, seconds=1 if error == "timeout" else 10)


def test_a_port_that_nobody_listens_on(visit: Visit, receiver: FakeReceiver) -> None:
    receiver.close_port()

    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act()
        await desk.send()
        (failed,) = await desk.deliveries(made.webhook)
        assert (failed.status, failed.history[-1]["error"], failed.history[-1]["statusCode"]) == ("failed", "connect", None)

    visit(happens)


def test_a_redirect_is_a_failure_and_is_not_followed(visit: Visit, receiver: FakeReceiver) -> None:
    with receiving() as canary:
        receiver.behaviour = Behaviour(status=lambda _: 307, headers={"location": canary.url})

        async def happens(desk: Desk) -> None:
            made = await desk.webhook(receiver.url)
            await desk.act()
            await desk.send()
            (failed,) = await desk.deliveries(made.webhook)
            assert (failed.status, failed.history[-1]["statusCode"]) == ("failed", 307)

        visit(happens)
        assert canary.connections == 0


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(endless=True), Behaviour(headers={"content-encoding": "gzip"}, body=ZEROS)],
    ids=["ten gigabytes", "gzip bomb"],
)
def test_of_a_monstrous_answer_a_little_is_read(visit: Visit, receiver: FakeReceiver, behaviour: Behaviour) -> None:
    receiver.behaviour = behaviour

    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act()
        await desk.send()
        (delivery,) = await desk.deliveries(made.webhook)
        assert delivery.status == "delivered", delivery.history
        assert delivery.response_body is not None
        assert len(delivery.response_body) <= limits.WEBHOOK_RESPONSE_BYTES

    visit(happens)


def test_retry_after_is_honoured_within_bounds(visit: Visit, receiver: FakeReceiver) -> None:
    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        for asked, given in ((600, 600), (10**8, limits.WEBHOOK_RETRY_AFTER_SECONDS_MAX), (1, 5), (-1, 5)):
            receiver.behaviour = Behaviour(status=lambda _: 429, headers={"retry-after": str(asked)})
            await desk.act()
            await desk.send()
            last = (await desk.deliveries(made.webhook))[-1]
            assert last.next_attempt_at == last.history[-1]["attemptedAt"] + last.history[-1]["latencyMs"] + given * 1000, asked

    visit(happens)


def test_410_ends_it_and_the_organization_is_told(visit: Visit, receiver: FakeReceiver) -> None:
    async def happens(desk: Desk) -> None:
        with receiving() as watcher:
            made, _ = await desk.webhook(receiver.url), await desk.webhook(watcher.url, "webhook.disabled")
            receiver.behaviour = Behaviour(status=lambda _: 410)
            await desk.act(3)
            await desk.send()
            await desk.seal()
            await desk.send()
            state = await desk.state(made.webhook)
            assert (state.active, state.disabled_reason) == (False, "gone")
            assert len(receiver.received) == 1
            found = await desk.deliveries(made.webhook)
            assert [delivery.status for delivery in found] == ["dead_letter"] * 3
            assert [delivery.history[-1]["error"] for delivery in found] == ["status", "disabled", "disabled"]
            (told,) = watcher.received
            event = json.loads(told.body)
            assert (event["type"], event["data"]["targetId"], event["data"]["metadata"]) == ("webhook.disabled", made.webhook.webhook_id, {"reason": "gone"})
            await desk.act()
            await desk.send()
            assert len(receiver.received) == 1, "nothing more is written for it"

    visit(happens)


def test_failing_for_days_disables_it(visit: Visit, receiver: FakeReceiver) -> None:
    receiver.behaviour = Behaviour(status=lambda _: 503)

    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        for _ in range(4):
            await desk.act()
            await desk.send()
            assert (await desk.state(made.webhook)).active
            desk.pass_time(seconds=DAY - 3600)
        await desk.act()
        await desk.send()
        state = await desk.state(made.webhook)
        assert (state.active, state.disabled_reason, state.failing_since is not None) == (False, "failing", True)
        assert {delivery.status for delivery in await desk.deliveries(made.webhook)} == {"dead_letter"}
        receiver.behaviour = Behaviour()
        again = await desk.write(actions.update_webhook, made.webhook.webhook_id, {"active": True})
        assert (again.active, again.disabled_reason, again.failure_count, again.failing_since) == (True, None, 0, None)
        await desk.act()
        await desk.send()
        assert (await desk.deliveries(made.webhook))[-1].status == "delivered"

    visit(happens)


def test_a_failing_receiver_is_asked_less_and_less_often(visit: Visit, receiver: FakeReceiver) -> None:
    """However much waits for it: after five failures one attempt a pause; with the first success all of it goes."""
    receiver.behaviour = Behaviour(status=lambda _: 500)

    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act(200)
        await desk.send()
        assert len(receiver.received) <= limits.WEBHOOK_FAILURES_BEFORE_PAUSE + limits.WEBHOOK_CONCURRENT_EACH
        before = len(receiver.received)
        for _ in range(12):
            desk.pass_time(seconds=limits.WEBHOOK_PAUSE_MS_MAX / 1000)
            await desk.send()
        assert len(receiver.received) == before + 12
        receiver.behaviour = Behaviour()
        desk.pass_time(seconds=13 * 3600)
        await desk.send()
        assert {delivery.status for delivery in await desk.deliveries(made.webhook)} == {"delivered"}

    visit(happens)


def test_what_is_undelivered_after_a_day_is_given_up_unasked(visit: Visit, receiver: FakeReceiver) -> None:
    receiver.close_port()

    async def happens(desk: Desk) -> None:
        made = await desk.webhook(receiver.url)
        await desk.act(150)
        await desk.send()
        desk.pass_time(seconds=limits.WEBHOOK_EXPIRES_MS / 1000 + 1)
        await desk.send()
        found = await desk.deliveries(made.webhook)
        assert {delivery.status for delivery in found} == {"dead_letter"}
        assert {delivery.history[-1]["error"] for delivery in found} == {"expired"}

    visit(happens)


def test_a_name_that_leads_inside_is_not_dialled(visit: Visit) -> None:
    """Looked at again at each attempt: what was public yesterday may lead inside today."""

    async def happens(desk: Desk) -> None:
        with receiving() as canary:

            async def rebound(_host: str, _port: int) -> list[str]:
                return ["127.0.0.1"]

            desk.instance.outgoing = Outgoing(resolve=rebound)
            made = await desk.webhook(f"https://rebinding.example:8443/{canary.port}")
            await desk.act()
            await desk.send()
            (failed,) = await desk.deliveries(made.webhook)
            assert (failed.status, failed.history[-1]["error"]) == ("failed", "blocked_forbidden_address")
            assert canary.connections == 0

    visit(happens)
