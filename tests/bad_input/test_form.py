"""Forms that are wrong, and clients that authenticate in no way or in two, sent to every operation that takes a form."""

import base64
import logging
from urllib.parse import quote, urlencode

import pytest
from tests.bad_input import wire
from tests.bad_input.conftest import Target, fresh_request_id
from tests.bad_input.operations import FORM, WITH_FORM, Operation

from agentidp.core import limits

NAMES = {operation.template: [*operation.definition["requestBody"]["content"][FORM]["schema"]["properties"]] for operation in WITH_FORM}
REPEATABLE = {"resource", "audience"}


def good_form(target: Target) -> dict[str, str]:
    """A form that every one of the operations would take: the client in the body, for an agent of the tenant."""
    client = {"client_id": target.agent.agent_id, "client_secret": target.agent.client_secret}
    return {"grant_type": "client_credentials", "token": "x.y.z", **client}


def good_basic(target: Target) -> str:
    return basic(f"{target.agent.agent_id}:{target.agent.client_secret}")


def basic(pair: str | bytes) -> str:
    return "Basic " + base64.b64encode(pair.encode() if isinstance(pair, str) else pair).decode()


@pytest.mark.parametrize("operation", WITH_FORM, ids=str)
def test_the_form_that_these_tests_spoil_is_a_good_one(target: Target, operation: Operation) -> None:
    assert target.call(operation, data=good_form(target)).status_code == 200
    ignored = good_form(target) | {"unknown": "x", "GRANT_TYPE": "x", "Token": "y", "Client_Id": "z"}
    assert target.call(operation, data=ignored).status_code == 200, "names that differ by case are other names"
    bare = {name: value for name, value in good_form(target).items() if not name.startswith("client_")}
    assert target.call(operation, data=bare, headers={"Authorization": good_basic(target)}).status_code == 200


@pytest.mark.parametrize("operation", WITH_FORM, ids=str)
def test_a_repeated_parameter_is_refused(target: Target, operation: Operation) -> None:
    for name in [*NAMES[operation.template], "unknown"]:
        if name in REPEATABLE:
            continue
        for second in ("other", "", good_form(target).get(name, "")):
            body = urlencode([*(good_form(target) | {name: good_form(target).get(name, "x")}).items(), (name, second)])
            response = target.call(operation, content=body, headers={"Content-Type": FORM})
            assert (response.status_code, response.json()["error"]) == (400, "invalid_request"), name


@pytest.mark.parametrize("operation", WITH_FORM, ids=str)
def test_a_semicolon_separates_nothing(target: Target, operation: Operation) -> None:
    body = urlencode(good_form(target)).replace("&", ";")
    response = target.call(operation, content=body, headers={"Content-Type": FORM})
    assert response.status_code in {400, 401}
    assert "access_token" not in response.text


@pytest.mark.parametrize("operation", WITH_FORM, ids=str)
def test_parameters_in_the_url_are_refused_and_not_logged(target: Target, operation: Operation, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    request_id = fresh_request_id()
    for name, value in good_form(target).items():
        for spelling in (name, quote(name).replace("_", "%5F"), f"a=b&{name}"):
            path = f"{operation.path()}?{spelling}={value}"
            response = target.call(operation, path=path, data=good_form(target), headers={"X-Request-Id": request_id})
            assert (response.status_code, response.json()["error"]) == (400, "invalid_request"), path
            assert target.agent.client_secret not in response.text
    ours = [record for record in caplog.records if record.name.startswith(("agentidp", "uvicorn"))]
    assert ours
    assert not [record for record in ours if target.agent.client_secret in str(vars(record))]
    assert target.agent.client_secret not in str(target.events(request_id))


@pytest.mark.parametrize("operation", WITH_FORM, ids=str)
def test_two_ways_to_authenticate_are_refused(target: Target, operation: Operation) -> None:
    for header in (good_basic(target), basic("a:b"), "Basic !"):
        response = target.call(operation, data=good_form(target), headers={"Authorization": header})
        assert (response.status_code, response.json()["error"]) == (400, "invalid_request"), header
    other_id = {"grant_type": "client_credentials", "token": "x", "client_id": target.tenant.admin.agent_id}
    response = target.call(operation, data=other_id, headers={"Authorization": good_basic(target)})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    both = target.call(operation, data=good_form(target), headers=target.bearer)
    assert (both.status_code, both.json()["error"]) == (400, "invalid_request")


MALFORMED_BASIC = {
    "empty": "Basic",
    "blank": "Basic  ",
    "not base64": "Basic !!!!",
    "base64url": "Basic " + base64.urlsafe_b64encode(b"\xff\xfe\xfb:\xff\xff").decode(),
    "no padding": basic("a:bcd").rstrip("="),
    "too much padding": basic("a:b") + "===",
    "text after padding": basic("a:bc") + "AAAA",
    "no colon": basic("nothing"),
    "not UTF-8": basic(b"\xff:\xff"),
    "percent-encoding that is not UTF-8": basic("%ff:%ff"),
    "NUL": basic("\x00:\x00"),
    "only a colon": basic(":"),
    "colon in the secret": basic("a:b:c"),
    "2 KiB": basic("a:" + "b" * 2048),
    "another scheme": "Digest username=x",
    "no scheme": base64.b64encode(b"a:b").decode(),
    "comma": basic("a:b") + ", " + basic("c:d"),
    "bytes": "Basic \xff\xfe",
}


@pytest.mark.parametrize("operation", WITH_FORM, ids=str)
def test_malformed_basic_is_one_and_the_same_401(target: Target, operation: Operation) -> None:
    bodies = set()
    form = urlencode({"grant_type": "client_credentials", "token": "x.y.z"}).encode()
    for name, header in MALFORMED_BASIC.items():
        request_id = fresh_request_id()
        lines = [f"Authorization: {header}", f"Content-Type: {FORM}", f"Content-Length: {len(form)}", f"X-Request-Id: {request_id}"]
        answer = wire.exchange(target.url, wire.head(operation.method, operation.path(), *lines) + form)
        assert answer.status == 401, name
        assert answer.headers["www-authenticate"].startswith("Basic realm="), name
        assert [(event.action, event.outcome) for event in target.events(request_id)] == [("auth.failed", "failure")], name
        bodies.add(answer.body)
    assert len(bodies) == 1


@pytest.mark.parametrize("operation", WITH_FORM, ids=str)
def test_two_authorization_headers_are_401(target: Target, operation: Operation) -> None:
    form = urlencode({"grant_type": "client_credentials", "token": "x.y.z"}).encode()
    for pair in [(good_basic(target),) * 2, (good_basic(target), f"Bearer {target.token}"), (f"Bearer {target.token}", good_basic(target))]:
        lines = [*(f"Authorization: {value}" for value in pair), f"Content-Type: {FORM}", f"Content-Length: {len(form)}"]
        assert wire.exchange(target.url, wire.head(operation.method, operation.path(), *lines) + form).status == 401


@pytest.mark.parametrize("operation", WITH_FORM, ids=str)
def test_too_many_parameters_are_refused(target: Target, operation: Operation) -> None:
    good = urlencode(good_form(target))
    for body in (
        good + "&x" * 10_000,
        good + "".join(f"&x{number}=1" for number in range(5000)),
        good + "&" * 10_000,
        good + "&resource=https://a.example" * 100,
    ):
        response = target.call(operation, content=body, headers={"Content-Type": FORM})
        assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    assert len(good_form(target)) < limits.FORM_PARAMETERS_MAX


@pytest.mark.parametrize("operation", WITH_FORM, ids=str)
def test_bytes_that_are_no_form_are_refused(target: Target, operation: Operation) -> None:
    good = urlencode(good_form(target)).encode()
    for extra in (b"&x=\xff", b"&x=%ff", b"&%ff=x", b"&x=%ed%a0%80", "&x=é".encode(), b"&x=%c0%af"):
        response = target.call(operation, content=good + extra, headers={"Content-Type": FORM})
        assert (response.status_code, response.json()["error"]) == (400, "invalid_request"), extra


@pytest.mark.parametrize("operation", WITH_FORM, ids=str)
def test_missing_and_empty_parameters_are_the_same(target: Target, operation: Operation) -> None:
    required = operation.definition["requestBody"]["content"][FORM]["schema"]["required"]
    for name in required:
        for form in ({**good_form(target), name: ""}, {key: value for key, value in good_form(target).items() if key != name}):
            response = target.call(operation, data=form)
            assert (response.status_code, response.json()["error"]) == (400, "invalid_request"), name
    for form in ({}, {"client_id": ""}, dict.fromkeys(NAMES[operation.template], "")):
        assert target.call(operation, data=form).status_code in {400, 415}
    for name in ("client_id", "client_secret"):
        assert target.call(operation, data=good_form(target) | {name: ""}).status_code == 401, name


OF_OTHER_GRANTS = {"assertion", "audience", "subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type"}
HOSTILE = ["\x00", "a\x00b", "\r\nX-Injected: 1", "\u202e", "'; DROP TABLE agents; --", "[]", "null", "{}", "%", "%00", "ſcope", "𝟙", "x" * 20_000, " ", "+"]


@pytest.mark.parametrize("operation", WITH_FORM, ids=str)
def test_values_of_any_kind_never_fail_the_server(target: Target, operation: Operation) -> None:
    for name in NAMES[operation.template]:
        for value in HOSTILE:
            response = target.call(operation, data=good_form(target) | {name: value})
            ignored = name in ({"token", "token_type_hint"} if operation.template != "/api/v1/token" else OF_OTHER_GRANTS)
            assert response.status_code in ({200} if ignored else {400, 401}), (name, value[:20])
            assert "x-injected" not in response.headers


@pytest.mark.parametrize(
    "scope", ["a  b", " a", "a ", "a\tb", 'a"b', "a\\b", "é", "agents:read\nadmin:orgs", "AGENTS:READ", "agents:read,agents:write", "x" * 1025, "*"]
)
def test_a_scope_that_is_none_is_invalid_scope(target: Target, scope: str) -> None:
    response = target.agent.token_response(scope)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_scope")


@pytest.mark.parametrize(
    "resource",
    [
        "x",
        "/path",
        "//host",
        "https://",
        "https://a.example#f",
        "https://a.example/#",
        "https://[::1",
        "https://a b.example",
        "https://a.example/\x00",
        "https://é.example",
        "urn:",
        ":",
        "https://a.example/" + "x" * 512,
    ],
)
def test_a_resource_that_is_no_absolute_uri_is_invalid_target(target: Target, resource: str) -> None:
    response = target.agent.token_response(resource=resource)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_target")


def test_more_resources_than_a_token_may_have_are_invalid_target(target: Target) -> None:
    response = target.agent.token_response(resource=[f"https://{number}.example" for number in range(limits.RESOURCES_MAX + 1)])
    assert (response.status_code, response.json()["error"]) == (400, "invalid_target")


def test_a_grant_type_is_one_exact_word(target: Target) -> None:
    for name in ("password", "CLIENT_CREDENTIALS", "client_credentials ", "client_credentials\x00", "implicit", "x" * 5000):
        response = target.agent.token_response(grant_type=name)
        assert (response.status_code, response.json()["error"]) == (400, "unsupported_grant_type"), name
