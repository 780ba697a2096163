"""The way out to tenants' addresses against real listeners: who is connected to, and who is not."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from tests.core.conftest import Run
from tests.fakes.fake_peer import OK, FakeAuthority, FakePeer, says

from agentidp.core.addresses import Address, check_url
from agentidp.core.metrics import Metrics
from agentidp.core.outgoing import Answer, Blocked, Bounds, Outgoing, Unreachable

NAME = "hooks.example.com"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


class Names:
    """A name server of the tests: gives each of its answers once, the last for ever."""

    def __init__(self, *answers: Sequence[str] | Exception) -> None:
        self.answers, self.asked = list(answers), list[str]()

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def is_here(address: Address) -> bool:
    """127.0.0.1 plays the public address, all others are what they are."""
    return address == ip_address("127.0.0.1")


def url_of(receiver: FakePeer, host: str = "127.0.0.1") -> str:
    return f"{'https' if receiver._tls else 'http'}://{host}:{receiver.port}/hook?a=b"


async def asked(outgoing: Outgoing, url: str, **values: Any) -> Answer:
    answer = await outgoing.request("POST", url, body=b"{}", **values)
    await outgoing.close()
    return answer


async def refused(outgoing: Outgoing, url: str, **values: Any) -> Blocked:
    with pytest.raises(Blocked) as blocked:
        await outgoing.request("POST", url, body=b"{}", **values)
    await outgoing.close()
    return blocked.value


def test_a_request_arrives_as_it_was_asked_for(run: Run) -> None:
    async def work() -> None:
        async with FakePeer(b"HTTP/1.1 202 Accepted\r\nRetry-After: 7\r\nX-A: b\r\nContent-Length: 3\r\n\r\nyes") as receiver:
            outgoing = Outgoing(allow_loopback=True)
            answer = await outgoing.request("POST", url_of(receiver), headers={"Content-Type": "application/json", "webhook-id": "msg_1"}, body=b'{"a":1}')
            assert (answer.status, answer.body, answer.is_cut) == (202, b"yes", False)
            assert answer.headers["retry-after"] == "7"
            await outgoing.request("GET", url_of(receiver))
            await outgoing.close()
        lines = receiver.requests[0][0].decode().split("\r\n")
        assert lines[0] == "POST /hook?a=b HTTP/1.1"
        assert sorted(lines[1:-2]) == sorted(
            [
                f"Host: 127.0.0.1:{receiver.port}",
                "Accept-Encoding: identity",
                "Content-Type: application/json",
                "webhook-id: msg_1",
                "Content-Length: 7",
            ]
        )
        assert receiver.requests[0][1] == b'{"a":1}'
        assert receiver.requests[1][0].startswith(b"GET /hook?a=b HTTP/1.1\r\n")
        assert b"content-length" not in receiver.requests[1][0].lower()
        assert receiver.connections == 1

    run(work())


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["64:ff9b::7f00:1"],
        ["fe80::1%lo"],
        ["0.0.0.0"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["2606:4700::1", "8.8.8.8", "fd00::1"],
    ],
    ids=",".join,
)
def test_a_name_that_leads_inside_is_not_connected_to(addresses: list[str], run: Run) -> None:
    async def work() -> None:
        async with FakePeer() as canary:
            assert check_url(f"https://{NAME}:{canary.port}/", allow_loopback=False, ports={canary.port}).host == NAME
            blocked = await refused(Outgoing(ports={canary.port}, resolve=Names(addresses)), f"https://{NAME}:{canary.port}/")
            assert blocked.reason == "forbidden_address"
        assert canary.connections == 0

    run(work())


def test_a_name_is_resolved_once_and_checked_each_time(run: Run, tmp_path: Path) -> None:
    """Rebinding: what the name leads to changes after registration, after the check, after an answer. Only what was checked is dialled."""
    authority = FakeAuthority(tmp_path)

    async def work() -> None:
        answer = says(OK.replace(b"Content", b"Connection: close\r\nContent"), closes=True)
        async with FakePeer(answer, tls=authority.server(NAME)) as receiver:
            names = Names(["127.0.0.1"], ["::1"], ["127.0.0.1", "10.0.0.1"], ["127.0.0.1"])
            outgoing = Outgoing(ports={receiver.port}, resolve=names, is_allowed=is_here, ssl_context=authority.client())
            assert (await outgoing.request("POST", url_of(receiver, NAME))).status == 200
            assert names.asked == [NAME]
            for _ in range(2):
                with pytest.raises(Blocked, match="not a public one"):
                    await outgoing.request("POST", url_of(receiver, NAME))
            assert receiver.connections == 1
            assert (await outgoing.request("POST", url_of(receiver, NAME))).status == 200
            assert names.asked == [NAME] * 4
            await outgoing.close()

    run(work())


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:{}/", "https://127.1:{}/", "https://[::ffff:127.0.0.1]:{}/", "https://localhost:{}/", "http://127.0.0.1:{}/"]
)
def test_an_internal_address_is_neither_asked_for_nor_connected_to(url: str, run: Run) -> None:
    async def work() -> None:
        async with FakePeer() as canary:
            names, metrics = Names(["127.0.0.1"]), Metrics()
            outgoing = Outgoing(ports={canary.port}, resolve=names, on_blocked=metrics.outgoing_blocked.inc)
            assert (await refused(outgoing, url.format(canary.port))).reason == "forbidden_address"
            assert names.asked == []
            assert metrics.registry.get_sample_value("agentidp_outgoing_blocked_total") == 1
        assert canary.connections == 0

    run(work())


def test_what_is_named_as_loopback_must_be_it(run: Run) -> None:
    """`localhost` in a name server's hands, where loopback is allowed."""

    async def work() -> None:
        async with FakePeer() as receiver:
            assert (await asked(Outgoing(allow_loopback=True, resolve=Names(["127.0.0.1"])), url_of(receiver, "localhost"))).status == 200
            assert (await asked(Outgoing(allow_loopback=True), url_of(receiver, "localhost"))).status == 200
            for addresses in (["10.0.0.1"], ["8.8.8.8"], ["127.0.0.1", "10.0.0.1"], ["::ffff:127.0.0.1"]):
                await refused(Outgoing(allow_loopback=True, resolve=Names(addresses)), url_of(receiver, "a.localhost"))
        assert receiver.connections == 2

    run(work())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer(status: int, run: Run) -> None:
    async def work() -> None:
        async with FakePeer() as canary:
            location = url_of(canary)
            async with FakePeer(f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()) as receiver:
                answer = await asked(Outgoing(allow_loopback=True), url_of(receiver))
            assert (answer.status, answer.headers["location"], answer.body) == (status, location, b"")
        assert canary.connections == 0

    run(work())


def test_no_proxy_is_asked(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = FakeAuthority(tmp_path)

    async def work() -> None:
        async with FakePeer() as canary, FakePeer() as plain, FakePeer(tls=authority.server(NAME)) as receiver:
            for name in PROXIES:
                monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
            assert (await asked(Outgoing(allow_loopback=True), url_of(plain))).status == 200
            outgoing = Outgoing(ports={receiver.port}, resolve=Names(["127.0.0.1"]), is_allowed=is_here, ssl_context=authority.client())
            assert (await asked(outgoing, url_of(receiver, NAME))).status == 200
        assert canary.connections == 0

    run(work())


@pytest.mark.parametrize("case", ["right", "wrong name", "unknown authority", "no TLS"])
def test_the_certificate_is_that_of_the_name_in_the_url(case: str, run: Run, tmp_path: Path) -> None:
    authority = FakeAuthority(tmp_path)

    async def work() -> None:
        tls = {"wrong name": authority.server("other.example.com"), "no TLS": None}.get(case, authority.server(NAME))
        async with FakePeer(tls=tls, greeting=b"" if tls else b"SSH-2.0-OpenSSH_9.9\r\n") as receiver:
            context = None if case == "unknown authority" else authority.client()
            outgoing = Outgoing(ports={receiver.port}, resolve=Names(["127.0.0.1"]), is_allowed=is_here, ssl_context=context)
            url = f"https://{NAME}:{receiver.port}/"
            if case == "right":
                assert (await asked(outgoing, url)).status == 200
                assert receiver.server_names == [NAME]
                assert f"Host: {NAME}:{receiver.port}\r\n".encode() in receiver.requests[0][0]
            else:
                with pytest.raises(Unreachable) as unreachable:
                    await outgoing.request("POST", url)
                assert unreachable.value.kind == "tls"
                assert receiver.requests == []

    run(work())


def test_nothing_is_left_of_a_connection_that_did_not_come_about(run: Run, tmp_path: Path) -> None:
    authority = FakeAuthority(tmp_path)

    async def work() -> None:
        trouble: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: trouble.append(context))
        async with FakePeer(tls=authority.server("other.example.com")) as receiver:
            bounds = Bounds(kept_seconds=0.01)
            outgoing = Outgoing(ports={receiver.port}, resolve=Names(["127.0.0.1"]), is_allowed=is_here, ssl_context=authority.client(), bounds=bounds)
            with pytest.raises(Unreachable):
                await outgoing.request("GET", url_of(receiver, NAME))
            await asyncio.sleep(0.05)  # its time would be over
        assert (outgoing._origins, outgoing._kept) == ({}, {})
        assert [context for context in trouble if "handshake" not in context["message"]] == []  # the receiver's

    run(work())


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "b\r\nX-Injected: 1"},
        {"X-A": "b\nc"},
        {"X-A": "b\rc"},
        {"X-A": "b\x00c"},
        {"X-A\r\nX-Injected": "1"},
        {"X-A: b\r\nX-Injected": "1"},
        {"X A": "b"},
        {"": "b"},
        {"X-Ä": "b"},
        {"X-A": "ä"},
        {"Host": "internal"},
        {"content-length": "0"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "X-Signature"},
        {"Accept-Encoding": "gzip"},
    ],
    ids=ascii,
)
def test_a_header_ends_where_it_ends(headers: dict[str, str], run: Run) -> None:
    async def work() -> None:
        async with FakePeer() as canary:
            assert (await refused(Outgoing(allow_loopback=True), url_of(canary), headers=headers)).reason == "header"
        assert canary.connections == 0

    run(work())


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"\x16\x03\x01 nonsense\r\n\r\n", "protocol"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "protocol"),
        (b"HTTP/1.1 999999 X\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "protocol"),
        (b"", "closed"),
        (b"HTTP/1.1 2", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "closed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", "closed"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed"),
    ],
)
def test_what_is_no_answer_is_said_so(answer: bytes, kind: str, run: Run) -> None:
    async def work() -> None:
        async with FakePeer(says(answer, closes=True)) as receiver:
            outgoing = Outgoing(allow_loopback=True)
            with pytest.raises(Unreachable) as unreachable:
                await outgoing.request("POST", url_of(receiver))
            assert unreachable.value.kind == kind
            assert (outgoing._origins, outgoing._kept) == ({}, {})
        assert receiver.connections == 1

    run(work())


def test_who_the_operator_has_named_may_be_anywhere_and_nobody_else_uses_the_connection(run: Run, tmp_path: Path) -> None:
    authority = FakeAuthority(tmp_path)

    async def work() -> None:
        async with FakePeer(tls=authority.server(NAME)) as receiver:
            url, here = url_of(receiver, NAME), Names(["127.0.0.1"])
            assert (await asked(Outgoing(resolve=here, ssl_context=authority.client()), url, anywhere=True)).status == 200, "at any port"
            outgoing = Outgoing(ports={receiver.port}, resolve=here, ssl_context=authority.client())
            for _ in range(2):
                assert (await outgoing.request("GET", url, anywhere=True)).status == 200
            assert receiver.connections == 2, "one is kept"
            for wrong, reason in ((url, "forbidden_address"), (url.replace("https", "http"), "scheme")):
                with pytest.raises(Blocked) as blocked:
                    await outgoing.request("GET", wrong, anywhere=reason == "scheme")
                assert blocked.value.reason == reason
            await outgoing.close()

    run(work())


def test_all_of_a_names_addresses_may_be_dialled(run: Run, tmp_path: Path) -> None:
    """Nobody listens at the first."""
    authority = FakeAuthority(tmp_path)

    async def work() -> None:
        async with FakePeer(tls=authority.server(NAME)) as receiver:
            outgoing = Outgoing(ports={receiver.port}, resolve=Names(["::1", "127.0.0.1"]), is_allowed=lambda _: True, ssl_context=authority.client())
            assert (await asked(outgoing, url_of(receiver, NAME))).status == 200
        outgoing = Outgoing(ports={receiver.port}, resolve=Names(["::1", "127.0.0.1"]), is_allowed=lambda _: True)
        with pytest.raises(Unreachable) as unreachable:
            await outgoing.request("POST", url_of(receiver, NAME))
        assert unreachable.value.kind == "connect"

    run(work())


@pytest.mark.parametrize("failure", [OSError("no such name"), UnicodeError("label too long"), TimeoutError(), []], ids=repr)
def test_a_name_without_addresses(failure: Any, run: Run) -> None:
    async def work() -> None:
        with pytest.raises(Unreachable) as unreachable:
            await Outgoing(resolve=Names(failure)).request("GET", f"https://{NAME}/")
        assert unreachable.value.kind == "dns"

    run(work())
