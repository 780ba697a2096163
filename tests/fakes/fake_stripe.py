"""A Stripe that is none: the API calls of subscription billing over real HTTP on a real port, Checkout's page, and signed webhooks.

The real `stripe` library talks to it (`StripeClient(key, base_addresses={"api": url})`), and it checks parameters against that library's own
declarations. It has not been held against the real Stripe.

In a test: `with serving_stripe(FakeStripe()) as fake: …`, then `fake.url`, `fake.pay(session_id)`, `fake.deliver(webhook_url)`.

By hand, to walk through billing without an account at Stripe, in a clone with the packages of the tests (`make check` loads them):

    .venv/bin/python -m tests.fakes.fake_stripe --port 12111 --webhook http://127.0.0.1:3000/api/v1/billing/webhook

It prints the settings to start AgentIdP with. A checkout's address then shows a page with a Pay button, the customer portal's address one with
buttons for what can happen to a subscription and with the usage that was reported, and each event is sent to the webhook at once. It forgets
everything when it ends.
"""

import argparse
import base64
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from tests.fakes import stripe_shapes as shapes
from tests.fakes import stripe_webhooks as webhooks
from tests.fakes.stripe_account import Account
from tests.fakes.stripe_http import make_handler
from tests.fakes.stripe_params import read_form
from tests.fakes.stripe_routes import answer
from tests.fakes.stripe_shapes import Json, StripeFault, wrong

WEBHOOK_SECRET = "whsec_fake_0123456789abcdefghijklmnop"
Trouble = int | Literal["reset", "hang", "malformed"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent, with the parameters as they were read from the query and the form."""

    method: str
    path: str
    params: Json
    headers: dict[str, str]  # names in lower case
    at: int

    @property
    def idempotency_key(self) -> str | None:
        return self.headers.get("idempotency-key") if self.method == "POST" else None


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """How a request fails: an error's status, a reset connection, no answer for a while, or an answer that is no JSON."""

    trouble: Trouble
    path: str
    seconds: float
    is_done: bool
    is_saved: bool


@dataclass(slots=True)
class _Saved:
    """What an idempotency key stands for; `reply` is None while its first request is under way."""

    what: tuple[str, str, Json]
    at: int
    request_id: str
    reply: Reply | None = None


class FakeStripe(Account):
    """One account at Stripe, in test mode or live. All of `api_keys` open it (`sk_test_fake` or `sk_live_fake` where none is given); `clock` gives
    seconds since the epoch.

    What is set on it counts from the next request on. Control calls (`pay`, `cancel` …) put their events into the outbox; `deliver` empties it.
    """

    def __init__(
        self,
        *,
        api_keys: Iterable[str] = (),
        livemode: bool = False,
        webhook_secrets: Sequence[str] = (WEBHOOK_SECRET,),
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(livemode=livemode, clock=clock)
        self.api_keys = frozenset(api_keys) or {"sk_live_fake" if livemode else "sk_test_fake"}
        self.webhook_secrets = tuple(webhook_secrets)
        self.requests: list[Request] = []
        self.on_change: Callable[[], None] = lambda: None  # after each request; the program below delivers then
        self.stopping = threading.Event()  # ends what hangs
        self._faults: deque[Fault] = deque()
        self._saved: dict[str, _Saved] = {}

    def fail_next(
        self, trouble: Trouble = 500, *, times: int = 1, path: str = "/v1/", seconds: float = 1, is_done: bool = False, is_saved: bool = False
    ) -> None:
        """The next requests below `path` fail: with that status, or `reset`, `hang` (for `seconds`, then it answers) or `malformed`.

        With `is_done` Stripe does the work first and only the answer is lost. With `is_saved` an error is kept under the idempotency key and said again
        to every repetition, as Stripe does with an error from inside its work.
        """
        with self.lock:
            self._faults.extend([Fault(trouble, path, seconds, is_done, is_saved)] * times)

    def heal(self) -> None:
        """Forgets the failures that have not come yet."""
        with self.lock:
            self._faults.clear()

    def deliver(self, url: str, events: Sequence[Json] | None = None, **how: Any) -> list[webhooks.Delivery]:
        """Sends these events, else those in the outbox, to `url`; `how` is what `stripe_webhooks.deliver` takes."""
        return webhooks.deliver(url, self.take_events() if events is None else events, self.webhook_secrets, lambda: self.now, **how)

    def send(self, url: str, event: Json, *, secrets: Iterable[str] | None = None, age_seconds: int = 0) -> webhooks.Delivery:
        """Sends one event once, with these secrets' signatures and one that is `age_seconds` old."""
        return webhooks.send(url, event, self.webhook_secrets if secrets is None else secrets, self.now - age_seconds)

    # The API

    def reply(self, method: str, target: str, headers: dict[str, str], form: str) -> Reply:
        """Answers one request; the status 0 stands for a connection that is to be reset."""
        path, request_id = urlsplit(target).path, shapes.new_id("req", 14)
        try:
            request = Request(method, path, read_form("&".join(filter(None, (urlsplit(target).query, form)))), headers, self.now)
            fault = self._arrive(request)
            reply = self._answered(request, request_id, None if fault is None or fault.is_done else fault)
            if fault is not None and fault.is_done:
                self._happen(fault)
        except StripeFault as error:
            reply = _refusal(error)
        except _Lost as lost:
            reply = lost.reply
        about = {"Content-Type": "application/json", "Request-Id": request_id, "Stripe-Version": headers.get("stripe-version", self.api_version)}
        if method == "POST" and "idempotency-key" in headers:
            about["Idempotency-Key"] = headers["idempotency-key"]
        return Reply(reply.status, reply.body, about | reply.headers)

    def _arrive(self, request: Request) -> Fault | None:
        """Notes the request and takes the fault that is due."""
        with self.lock:
            self.keep_time()
            self.requests.append(request)
            fault = next((fault for fault in self._faults if request.path.startswith(fault.path)), None)
            if fault is not None:
                self._faults.remove(fault)
            return fault

    def _answered(self, request: Request, request_id: str, fault: Fault | None) -> Reply:
        try:
            self._check_key(request.headers.get("authorization", ""))
            if request.idempotency_key is None:
                return self._work(request, request_id, fault)
            return self._once(request, request_id, fault)
        except StripeFault as error:
            return _refusal(error)

    def _once(self, request: Request, request_id: str, fault: Fault | None) -> Reply:
        """The work of the first request with an idempotency key; its answer again for each later one within 24 hours."""
        key, what = request.idempotency_key or "", (request.method, request.path, request.params)
        if len(key) > 255:
            raise wrong("Idempotency keys are at most 255 characters long.")
        with self.lock:
            held = self._saved.get(key)
            if held is not None and held.at > self.now - shapes.DAY_SECONDS:
                return _replay(held, key, what)
            mine = self._saved[key] = _Saved(what, self.now, request_id)
        try:
            mine.reply = self._work(request, request_id, fault)
        except StripeFault as error:
            if not error.is_saved:
                raise
            mine.reply = _refusal(error)
        finally:
            if mine.reply is None:
                del self._saved[key]
        return mine.reply

    def _work(self, request: Request, request_id: str, fault: Fault | None) -> Reply:
        if fault is not None:
            self._happen(fault)
        with self.lock:
            self.request = {"id": request_id, "idempotency_key": request.idempotency_key}
            try:
                made = answer(self, request.method, request.path, request.params)
            finally:
                self.request = {"id": None, "idempotency_key": None}
        return Reply(200, json.dumps(made, indent=2).encode())

    def _happen(self, fault: Fault) -> None:
        if fault.trouble == "hang":
            self.stopping.wait(fault.seconds)
        elif fault.trouble == "reset":
            raise _Lost(Reply(0, b""))
        elif fault.trouble == "malformed":
            raise _Lost(Reply(200, b'{"id": "cus_'))
        else:
            words = {"type": "invalid_request_error", "code": "rate_limit"} if fault.trouble == 429 else {"type": "api_error"}
            error = StripeFault(fault.trouble, "Request rate limit exceeded." if fault.trouble == 429 else "An unknown error occurred.", **words)
            error.is_saved = fault.is_saved
            raise error

    def _check_key(self, authorization: str) -> None:
        """Bearer, or Basic with the key as the user's name."""
        scheme, _, rest = authorization.partition(" ")
        key = rest.strip()
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):
                key = base64.b64decode(key).decode().partition(":")[0]
        if not key:
            raise StripeFault(401, "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth.")
        if key not in self.api_keys:
            raise StripeFault(401, f"Invalid API Key provided: {key[:8]}{'*' * max(0, len(key) - 12)}{key[-4:]}")


class _Lost(Exception):
    """What reaches the client is not what Stripe answers."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


def _refusal(fault: StripeFault) -> Reply:
    return Reply(fault.status, json.dumps(fault.body, indent=2).encode(), fault.headers)


def _replay(held: _Saved, key: str, what: tuple[str, str, Json]) -> Reply:
    if held.what[:2] != what[:2]:
        there, here = held.what[1], what[1]
        message = f"Keys for idempotent requests can only be used for the same endpoint they were first used for ('{there}' vs '{here}')."
        raise StripeFault(400, f"{message} Try using a key other than '{key}' if you meant to execute a different request.", type="idempotency_error")
    if held.what != what:
        message = "Keys for idempotent requests can only be used with the same parameters they were first used with."
        raise StripeFault(400, f"{message} Try using a key other than '{key}' if you meant to execute a different request.", type="idempotency_error")
    if held.reply is None:
        message = "There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, and the other"
        raise StripeFault(409, f"{message} request is still going through): {key}. Please try again later.", code="idempotency_key_in_use")
    return Reply(held.reply.status, held.reply.body, held.reply.headers | {"Idempotent-Replayed": "true", "Original-Request": held.request_id})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the usual 5, the next clients of a crowd wait a second to connect


@contextlib.contextmanager
def serving_stripe(fake: FakeStripe, port: int = 0) -> Iterator[FakeStripe]:
    """The fake on a port of its own, a free one by default; its address is then in `fake.url`."""
    server = _Server(("127.0.0.1", port), make_handler(fake))
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def main() -> None:
    """Serves until interrupted; sends each event to the webhook as it comes up."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.fake_stripe", description="A Stripe that is none, to try billing by hand.")
    parser.add_argument("--port", type=int, default=12111)
    parser.add_argument("--webhook", default="http://127.0.0.1:3000/api/v1/billing/webhook", help="where the events go")
    options = parser.parse_args()
    fake, changed = FakeStripe(), threading.Event()
    fake.on_change = changed.set
    with serving_stripe(fake, options.port), contextlib.suppress(KeyboardInterrupt):
        print(f"The fake Stripe answers at {fake.url}. Start AgentIdP with:\n")
        print(f"  AGENTIDP_STRIPE__API_KEY=sk_test_fake AGENTIDP_STRIPE__API_BASE={fake.url} AGENTIDP_STRIPE__WEBHOOK_SECRET={WEBHOOK_SECRET}")
        print("  AGENTIDP_STRIPE__PRICES__PRO=price_pro AGENTIDP_STRIPE__PRICES__ENTERPRISE=price_enterprise")
        print("  AGENTIDP_STRIPE__METERS__TOKENS=tokens_issued AGENTIDP_STRIPE__METERS__CALLS=api_calls\n", flush=True)
        while True:
            changed.wait()
            changed.clear()
            for event in fake.take_events():
                for delivery in fake.deliver(options.webhook, [event]):
                    print(f"{event['type']} {event['id']}: {delivery.status or delivery.answer}", flush=True)


if __name__ == "__main__":
    main()
