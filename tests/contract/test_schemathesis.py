"""Every operation under schemathesis: all its checks, on documented, boundary and random requests, valid and invalid ones.

Per operation, over real HTTP, from one seed. Each request gets agents and credentials of its own to work on, so that whatever the
operation does, the caller stays who it is.
"""

import contextlib
import json
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, get_args

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.engine import events, from_schema
from schemathesis.hooks import unregister
from tests.fakes.fake_stripe import WEBHOOK_SECRET, FakeStripe
from tests.fakes.stripe_webhooks import signature
from tests.serving import RunningServer
from tests.tenants import Tenant, TestAgent, make_administrator, make_tenant

from agentidp.app import ROUTES
from agentidp.audit.queries import list_events
from agentidp.audit.rules import AuditFilter
from agentidp.auth.jwk import generate, public_jwk
from agentidp.auth.jws import Algorithm
from agentidp.auth.scopes import SCOPES
from agentidp.core import limits
from agentidp.core.caller import Caller
from agentidp.credentials.queries import list_credentials
from agentidp.db.paging import PageRequest
from agentidp.federation.actions import add_partner
from agentidp.federation.rules import NewPartner
from agentidp.organizations.actions import update_organization
from agentidp.tokens.grants import GRANTS

pytestmark = pytest.mark.slow

SEED = 20_261_122
FUZZED_REQUESTS = 40  # per operation
OPERATIONS = sorted(str(route.operation_id) for route in ROUTES if route.include_in_schema)
TOKEN = "POST /api/v1/token"
POLICIES = "POST /api/v1/oidc/trust-policies"
CHECKOUTS = ("POST /api/v1/billing/checkout", "POST /api/v1/tiers/upgrade")
SUMMARY = "GET /api/v1/analytics/usage-summary"
STREAM = "GET /api/v1/events"
WEBHOOK = "POST /api/v1/billing/webhook"

# What JSON Schema cannot say: an expiry lies in the future.
_NOW = datetime.now(UTC)
_FUTURE = st.integers(1, 365 * 5000).map(lambda days: (_NOW + timedelta(days)).isoformat().replace("+00:00", "Z"))
schemathesis.openapi.format("date-time", _FUTURE)

# Nor that numbers of the right size are those of a key, and a kid its thumbprint: they are replaced.
KEYS = {key["kty"]: key for key in (public_jwk(generate(algorithm), algorithm) for algorithm in get_args(Algorithm))}
_32_BYTES = "[A-Za-z0-9_-]{43}"
NUMBERS = {"EC": {"x": _32_BYTES, "y": _32_BYTES}, "OKP": {"x": _32_BYTES}, "RSA": {"n": "[A-Za-z0-9_-]{342,683}"}}


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_random_requests_find_nothing(server: RunningServer, tenant: Tenant, operation_id: str) -> None:
    """Fuzzing looks at the code above the database, so one engine is enough."""
    assert findings(server, tenant, operation_id, {"fuzzing"}) == []


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_documented_and_boundary_requests_find_nothing(server: RunningServer, tenant: Tenant, operation_id: str) -> None:
    """Each example, each boundary of each parameter, each missing or superfluous part."""
    assert findings(server, tenant, operation_id, {"examples", "coverage"}) == []


def findings(server: RunningServer, tenant: Tenant, operation_id: str, phases: set[str]) -> list[str]:
    """What schemathesis has to say against one operation."""
    caller = tenant.agent(*SCOPES)
    headers = {} if operation_id == "issueToken" else {"Authorization": f"Bearer {caller.token(' '.join(SCOPES))}"}
    config = schemathesis.Config.from_dict(
        {
            "seed": SEED,
            "base-url": server.url,
            "headers": headers,
            "request-timeout": 30,
            "cache": {"enabled": False},
            "generation": {"max-examples": FUZZED_REQUESTS, "deterministic": True, "database": "none"},
            "phases": {name: {"enabled": name in phases} for name in ("examples", "coverage", "fuzzing", "stateful")},
        }
    )
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=config).include(operation_id=operation_id)
    found, requests = [], 0
    with hooks(is_sayable, partial(prepare, tenant, caller, set())):
        for event in from_schema(schema).execute():
            if isinstance(event, events.ScenarioFinished):
                requests += len(event.recorder.interactions)
                for checks in event.recorder.checks.values():
                    found += [f"{check.failure_info.failure}\n{check.failure_info.code_sample}" for check in checks if check.failure_info]
            elif isinstance(event, events.NonFatalError | events.FatalError):
                found.append(repr(getattr(event, "value", event)))
    assert requests, "nothing was sent"
    return found


@contextlib.contextmanager
def hooks(keep: Callable[[Any], bool], prepare: Callable[[Any], None]) -> Iterator[None]:
    """Both in effect for the length of the block; schemathesis keeps its hooks in one place for the whole process."""

    def filter_case(context: Any, case: Any) -> bool:
        return keep(case)

    def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
        prepare(case)

    for hook in (filter_case, before_call):
        schemathesis.hook(hook)
    try:
        yield
    finally:
        for hook in (filter_case, before_call):
            unregister(hook)


def is_sayable(case: Any) -> bool:
    """Whether the request keeps to the rules between query parameters, which OpenAPI has no words for, and has no proof, which would have to be made for it."""
    names = (case.query or {}).keys()
    return "DPoP" not in (case.headers or {}) and not (names >= {"page", "cursor"} or names >= {"fromDate", "toDate"})


def prepare(tenant: Tenant, caller: TestAgent, seen_emails: set[str], case: Any) -> None:
    """Something real to work on: throw-away agents and credentials, an event, an email that is still free, the client's own secret."""
    path, body = case.path_parameters, case.body if isinstance(case.body, dict) else {}
    if "orgId" in path:  # never the caller's own, which it could suspend
        victims = make_tenant(tenant.server)
        path["orgId"] = victims.organization_id
        if "agentId" in path:
            make_administrator(victims.admin)
            path["agentId"] = victims.admin.agent_id
    elif "agentId" in path:
        victim = tenant.agent()
        path["agentId"] = victim.agent_id
        if "credentialId" in path:
            path["credentialId"] = newest(tenant, list_credentials, victim.agent_id, None).credential_id
    if "eventId" in path:
        path["eventId"] = newest(tenant, list_events, AuditFilter()).event_id
    if "partnerId" in path:
        new = NewPartner("Partner", f"https://{uuid.uuid4()}.example", "https://id.partner.example/keys", [], None)
        path["partnerId"] = tenant.server.write(add_partner, Caller(tenant.organization_id, scopes=frozenset(SCOPES)), new).partner_id
    put_addresses(tenant.server, case.operation.label, body)
    if case.operation.label in CHECKOUTS:
        lower(tenant)
        body |= {name: f"{tenant.server.url}/{name}" for name in ("successUrl", "cancelUrl") if is_address(body.get(name))}
        body |= {"targetTier": "pro"} if body.get("targetTier") == "free" else {}
    if case.operation.label == WEBHOOK and isinstance(case.body, dict) and "Stripe-Signature" in (case.headers or {}):
        case.body = FakeStripe().event("product.updated", {"id": "prod_1", "object": "product"})
        case.headers["Stripe-Signature"] = signature(json.dumps(case.body).encode(), [WEBHOOK_SECRET], case.body["created"])
    if case.operation.label == SUMMARY and (dates := [case.query[name] for name in ("from", "to") if name in case.query]) and all(map(is_date, dates)):
        case.query |= {"from": dates[0], "to": dates[0]}  # one day is always in order, and never too long
    if case.operation.label == STREAM and re.fullmatch(r"[0-8]?[0-9]{1,2}|900", str((case.query or {}).get("seconds", 0)), re.ASCII):
        case.query = (case.query or {}) | {"seconds": "0"}  # else it goes on
    if case.operation.label == POLICIES and is_valid(tenant.server, case.body):
        case.body = trustworthy(caller, case.body)
    if case.operation.label == TOKEN and body.get("grant_type") in GRANTS:
        body["grant_type"] = "client_credentials"  # the others need a token of somebody's
    if case.operation.label == TOKEN:
        body |= {"client_id": caller.agent_id, "client_secret": caller.client_secret}
    else:
        body.pop("client_secret", None)  # the caller has proven itself with its bearer token
    for name in ("client_assertion", "client_assertion_type"):  # in one way only
        body.pop(name, None)
    if isinstance(jwk := body.get("jwk"), dict) and (numbers := NUMBERS.get(str(jwk.get("kty")))) and is_shaped(jwk, numbers):
        named = {"kid"} if isinstance(jwk.get("kid"), str) and re.fullmatch(_32_BYTES, jwk["kid"], re.ASCII) else set()
        jwk |= {name: KEYS[jwk["kty"]][name] for name in numbers.keys() | named}
    if isinstance(email := body.get("email"), str):
        if email in seen_emails:
            body["email"] = f"{len(seen_emails)}{email}"
        seen_emails.add(email)


def put_addresses(server: RunningServer, label: str, body: dict[str, Any]) -> None:
    """Addresses that may be called in the place of those that JSON Schema allows: what may be called is no pattern."""
    if "/federation/" in label:  # the server's own key set stands for a partner's: it is there
        real = {"jwksUri": f"{server.url}/.well-known/jwks.json", "issuer": f"https://{uuid.uuid4()}.example"}
        body |= {name: address for name, address in real.items() if re.fullmatch(r"https?://[!-~]{1,504}", str(body.get(name)), re.ASCII)}
    if "/webhooks" in label and isinstance(url := body.get("url"), str) and 0 < len(url) <= limits.URL_CHARACTERS_MAX:
        body["url"] = "https://hooks.example.com/"
    if (
        "/credentials" in label
        and isinstance(uri := body.get("jwksUri"), str)
        and len(uri) <= limits.URL_CHARACTERS_MAX
        and re.fullmatch(r"https?://[!-~]+", uri)
    ):
        body["jwksUri"] = "https://keys.example.com/jwks.json"


def is_shaped(jwk: dict[str, Any], numbers: dict[str, str]) -> bool:
    return all(isinstance(jwk.get(name), str) and re.fullmatch(form, jwk[name], re.ASCII) for name, form in numbers.items())


def is_valid(server: RunningServer, body: Any) -> bool:
    """Whether the document allows this body of a trust policy."""
    schema = {"components": server.check.document["components"], "$ref": "#/components/schemas/TrustPolicyRequest"}
    return isinstance(body, dict) and jsonschema_rs.Draft202012Validator(schema).is_valid(body)


def trustworthy(caller: TestAgent, body: dict[str, Any]) -> dict[str, Any]:
    """What JSON Schema cannot say: who is trusted must be somebody in particular, whose claims are known, by an agent that is there."""
    kept = {name: value for name, value in body.items() if name in {"branch", "scopes"}}
    return kept | {"provider": "github", "repository": "acme/screener"} | ({"agentId": caller.agent_id} if body.get("agentId") else {})


def is_date(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(?!0000)\d{4}-\d\d-\d\d", value, re.ASCII) is not None


def is_address(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"https?://[^\s\\]+$", value) is not None


def lower(tenant: Tenant) -> None:
    """The free plan, from which one can go up, without its limits."""
    patch = {"plan_tier": "free", "max_agents": limits.ORGANIZATION_LIMIT_MAX, "max_tokens_per_day": limits.ORGANIZATION_LIMIT_MAX}
    tenant.server.write(update_organization, Caller(tenant.organization_id, scopes=frozenset(SCOPES)), patch)


def newest(tenant: Tenant, query: Callable[..., Any], *args: Any) -> Any:
    """The first row of a list."""
    return tenant.server.read(query, tenant.admin.caller, *args, PageRequest(1, page=1)).rows[0]
