"""Headers by which a client says what it is not: where it comes from, whom it talks to, what its request is called."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bad_input import wire
from tests.bad_input.conftest import Target, fresh_request_id
from tests.bad_input.operations import OPERATIONS, Operation
from tests.serving import RunningServer, settings_for
from tests.tenants import make_tenant

from agentidp.core import limits

PUBLIC = [operation for operation in OPERATIONS if operation.method == "GET" and operation.scope == "public"]
LOCAL = [operation for operation in OPERATIONS if operation.template in {"/metrics", "/health/detailed"}]
ELSEWHERE = "attacker.example"


def refused(target: Target, *lines: str) -> Any:
    """The audit event of a request without a token that sends these headers."""
    request_id = fresh_request_id()
    assert wire.exchange(target.url, wire.head("GET", "/agent-info", f"X-Request-Id: {request_id}", *lines)).status == 401
    (event,) = target.events(request_id)
    return event


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server that believes proxies on this machine and in 10.0.0.0/8; one engine is enough, for no SQL depends on it."""
    folder: Path = tmp_path_factory.mktemp("proxied")
    server = RunningServer(settings_for(folder, None, trusted_proxies=["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"]))
    tenant = make_tenant(server)
    with server.client() as client:
        yield Target(server, tenant, tenant.admin, tenant.admin.token(), {}, client)
    server.stop()


@pytest.mark.parametrize(
    "lines", [["X-Forwarded-For: 203.0.113.7"], ["Forwarded: for=203.0.113.7"], ["X-Real-IP: 203.0.113.7"], ["X-Client-IP: 203.0.113.7"]], ids=str
)
def test_forwarded_addresses_are_not_believed_without_a_proxy(target: Target, lines: list[str]) -> None:
    assert refused(target, *lines).ip_address == "127.0.0.1"


HOPS = {
    "one": (["203.0.113.7"], "203.0.113.7"),
    "the right-most foreign one": (["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
    "behind a second proxy": (["1.1.1.1, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),
    "in two headers": (["1.1.1.1", "203.0.113.7, 10.1.2.3"], "203.0.113.7"),
    "IPv6": (["2001:DB8::0001"], "2001:db8::1"),
    "IPv4 in IPv6": (["::ffff:203.0.113.7"], "203.0.113.7"),
    "IPv6 with a zone": (["fe80::1%" + "x" * 500], "fe80::1"),
    "an IPv6 proxy": (["203.0.113.7, fd00::1"], "203.0.113.7"),
    "only proxies": (["10.1.2.3, 10.1.2.4"], "10.1.2.3"),
    "nothing": ([""], "127.0.0.1"),
    "a word": (["unknown"], "127.0.0.1"),
    "a word behind an address": (["1.1.1.1, unknown"], "127.0.0.1"),
    "a word between proxies": (["1.1.1.1, unknown, 10.1.2.3"], "10.1.2.3"),
    "a port": (["1.1.1.1, 203.0.113.7:443"], "127.0.0.1"),
    "a decimal address": (["3405803783"], "127.0.0.1"),
    "octal digits": (["0313.0.0161.7"], "127.0.0.1"),
    "markup": (["<script>"], "127.0.0.1"),
    "many": ([", ".join(["1.1.1.1"] * 2000)], "1.1.1.1"),
    "many that cannot be read": ([", ".join(["x"] * 2000)], "127.0.0.1"),
}


@pytest.mark.parametrize("name", HOPS)
def test_behind_a_trusted_proxy_the_right_most_foreign_hop_counts(behind_proxy: Target, name: str) -> None:
    values, expected = HOPS[name]
    assert refused(behind_proxy, *(f"X-Forwarded-For: {value}" for value in values)).ip_address == expected


@pytest.mark.parametrize("operation", LOCAL, ids=str)
def test_what_is_for_this_machine_is_not_served_through_a_proxy_on_it(target: Target, operation: Operation) -> None:
    assert wire.exchange(target.url, wire.head("GET", operation.template)).status == 200
    for line in (
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-For:",
        "x-forwarded-for: ::1",
        "Forwarded: for=127.0.0.1",
        "X-Real-IP: 127.0.0.1",
        "Via: 1.1 proxy",
    ):
        answer = wire.exchange(target.url, wire.head("GET", operation.template, line))
        assert answer.status == 401, line
        assert answer.headers["www-authenticate"].startswith("Bearer "), line
        assert ELSEWHERE.encode() not in answer.body
    denied = wire.exchange(target.url, wire.head("GET", operation.template, "X-Forwarded-For: 127.0.0.1", f"Authorization: Bearer {target.agent.token()}"))
    assert (denied.status, 'scope="admin:orgs"' in denied.headers["www-authenticate"]) == (403, True)


@pytest.mark.parametrize("operation", PUBLIC, ids=str)
def test_no_answer_repeats_the_host_that_the_client_named(target: Target, operation: Operation) -> None:
    lying = [
        f"X-Forwarded-Host: {ELSEWHERE}",
        "X-Forwarded-Proto: https",
        f"Forwarded: host={ELSEWHERE};proto=https",
        f"Origin: https://{ELSEWHERE}",
        f"Referer: https://{ELSEWHERE}/",
    ]
    lying += [f"X-Original-URL: https://{ELSEWHERE}/", "X-Rewrite-URL: /api/v1/agents", "X-HTTP-Method-Override: DELETE"]
    honest = wire.exchange(target.url, wire.head("GET", operation.template))
    head = "\r\n".join([f"GET {operation.template} HTTP/1.1", f"Host: {ELSEWHERE}", "Connection: close", *lying]) + "\r\n\r\n"
    answer = wire.exchange(target.url, head.encode())
    assert ELSEWHERE not in answer.body.decode() + str(answer.headers)
    if operation not in LOCAL:
        assert answer.status == honest.status
    if operation.template.startswith("/.well-known/"):
        assert answer.body == honest.body
        assert target.url in honest.body.decode() or operation.template.endswith("jwks.json")


def test_a_refusal_and_a_token_name_the_configured_issuer(target: Target) -> None:
    head = f"GET /agent-info HTTP/1.1\r\nHost: {ELSEWHERE}\r\nConnection: close\r\n\r\n".encode()
    assert f'resource_metadata="{target.url}/' in wire.exchange(target.url, head).headers["www-authenticate"]
    absolute = f"GET https://{ELSEWHERE}/.well-known/openid-configuration HTTP/1.1\r\nHost: {ELSEWHERE}\r\nConnection: close\r\n\r\n".encode()
    assert json.loads(wire.exchange(target.url, absolute).body)["issuer"] == target.url


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_no_origin_is_allowed_unless_it_is_configured(target: Target, operation: Operation) -> None:
    for origin in (f"https://{ELSEWHERE}", "null", target.url):
        response = target.client.request(operation.method, operation.path(), headers={"Origin": origin})
        assert not [name for name in response.headers if name.startswith("access-control-")], origin


KEPT = ["a", "A-Z.0:_", "x" * limits.REQUEST_ID_CHARACTERS_MAX]
REPLACED = ["", " ", "a b", "x" * (limits.REQUEST_ID_CHARACTERS_MAX + 1), "x" * 10_000, "a%0d%0ab", "<b>", '"', "é", "a;b", "a,b", "\\r\\n", "/", "a\tb"]


@pytest.mark.parametrize("given", KEPT)
def test_a_harmless_request_id_is_kept(target: Target, given: str) -> None:
    assert wire.exchange(target.url, wire.head("GET", "/health", f"X-Request-Id: {given}")).headers["x-request-id"] == given


@pytest.mark.parametrize("given", REPLACED, ids=range(len(REPLACED)))
def test_any_other_request_id_is_replaced(target: Target, given: str) -> None:
    answer = wire.exchange(target.url, wire.head("GET", "/agent-info", f"X-Request-Id: {given}"))
    own = answer.headers["x-request-id"]
    assert (len(own), own[14]) == (36, "7")
    assert [event.action for event in target.events(own)] == ["auth.failed"]


def test_a_request_id_cannot_split_a_header(target: Target) -> None:
    answer = wire.exchange(target.url, wire.head("GET", "/health", "X-Request-Id: a\r\n\r\nX-Injected: 1"))
    assert (answer.headers["x-request-id"], "x-injected" in answer.headers) == ("a", False)
    assert wire.exchange(target.url, wire.head("GET", "/health", "X-Request-Id: a\rX-Injected: 1")).status == 400


AGENTS = {
    "plain": ("curl/8.0", "curl/8.0"),
    "none": (None, ""),
    "control characters": ("a\tb", "a\\tb"),
    "C1 control characters": ("a\x9bb\x85c", "a\\x9bb\\x85c"),
    "soft hyphen": ("a\xadb", "a\\xadb"),
    "no-break space": ("a\xa0b", "a\\xa0b"),
    "bidirectional marks in UTF-8": ("a\u202eb".encode().decode("latin-1"), "aâ\\x80®b"),
    "long": ("x" * 20_000, "x" * limits.USER_AGENT_CHARACTERS_MAX),
    "long when escaped": ("\x9b" * 20_000, ("\\x9b" * 64)),
    "quotes": ("\"'; DROP TABLE audit_events; --", "\"'; DROP TABLE audit_events; --"),
}


@pytest.mark.parametrize("name", AGENTS)
def test_a_user_agent_is_stored_escaped_and_cut(target: Target, name: str) -> None:
    sent, stored = AGENTS[name]
    event = refused(target, *([f"User-Agent: {sent}"] if sent is not None else []))
    assert event.user_agent == stored


def test_a_user_agent_of_a_mebibyte_is_refused(target: Target) -> None:
    head = wire.head("GET", "/agent-info", "User-Agent: " + "x" * 1024 * 1024)
    assert wire.exchange(target.url, head).status in {0, 431}
    assert wire.exchange(target.url, wire.head("GET", "/health")).status == 200
