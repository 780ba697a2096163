"""What a receiver can cost, and how long a connection is kept: answers without end, without haste, without sense; real listeners, small bounds."""

import asyncio
import gzip
from collections.abc import Sequence

import pytest
from tests.core.conftest import Run
from tests.core.loopback import failed, outgoing, url_of
from tests.fakes.fake_peer import OK, FakePeer, repeats

from agentidp.core import limits
from agentidp.core.lookup import Lookup
from agentidp.core.outgoing import Answer, Bounds, Outgoing, Unreachable

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def of_length(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
        (CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        (CHUNKED, b"1\r\nx\r\n" * 1000),
        (CHUNKED, b"1;" + b"e" * 1000 + b"\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", b"\x1f\x8b" + b"x" * 65536),
    ],
    ids=["announced", "till the end", "chunks", "small chunks", "extensions", "packed"],
)
def test_an_endless_body_is_cut_and_its_connection_closed(first: bytes, then: bytes, run: Run) -> None:
    async def work() -> None:
        async with FakePeer(repeats(first, then)) as receiver:
            client = outgoing()
            answer = await client.request("POST", url_of(receiver), body=b"{}")
            assert (answer.status, answer.is_cut) == (200, True)
            assert len(answer.body) <= limits.OUTGOING_ANSWER_BYTES_MAX
            assert len(client._kept) == 0
            await receiver.until(lambda: receiver.ended == 1)  # though it had more to say

    run(work())


def test_a_body_of_just_the_bound_is_whole(run: Run) -> None:
    async def work() -> None:
        client, most = outgoing(), limits.OUTGOING_ANSWER_BYTES_MAX
        for length, is_cut in ((0, False), (most - 1, False), (most, False), (most + 1, True)):
            async with FakePeer(of_length(length)) as receiver:
                answer = await client.request("POST", url_of(receiver), body=b"{}")
                assert (len(answer.body), answer.is_cut) == (min(length, most), is_cut)
                await client.close()

    run(work())


def test_a_gzip_bomb_stays_packed(run: Run) -> None:
    packed = gzip.compress(b"0" * 10_000_000)

    async def work() -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        async with FakePeer(head + packed) as receiver:
            client = outgoing()
            answer = await client.request("POST", url_of(receiver), body=b"{}")
            assert answer.body == packed
            assert not answer.is_cut
            await client.close()

    run(work())


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\n", b""),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["silence", "half a head", "header by header", "half a body", "byte by byte", "chunk by chunk", "soon"],
)
def test_a_receiver_that_takes_its_time_is_ended_by_ours(first: bytes, then: bytes, run: Run) -> None:
    async def work() -> None:
        async with FakePeer(repeats(first, then, pause=0.02)) as receiver:
            client = outgoing(seconds=0.2)
            assert await failed(client, receiver) == "timeout"
            assert (client._origins, client._kept) == ({}, {})
            await receiver.until(lambda: receiver.ended == 1)

    run(work())


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"b" * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-A: ", b"b" * 1000),
        (b"HTTP/1.1 200 ", b"O" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 1000 + b"\r\n\r\n"),
        (b"", b"x" * 1000),
        (b"", b"\r\n" * 1000),
    ],
    ids=["headers", "a header", "a reason", "continue", "hints", "a letter", "empty lines"],
)
def test_a_head_without_end_is_given_up(first: bytes, then: bytes, run: Run) -> None:
    async def work() -> None:
        async with FakePeer(repeats(first, then)) as receiver:
            assert await failed(outgoing(), receiver) == "protocol"
            await receiver.until(lambda: receiver.ended == 1)

    run(work())


def test_a_few_informational_answers_are_passed_over(run: Run) -> None:
    async def work() -> None:
        async with FakePeer(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK) as receiver:
            client = outgoing()
            assert (await client.request("POST", url_of(receiver), body=b"{}")).body == b"ok"
            await client.close()

    run(work())


def test_connections_are_kept_for_the_next_request(run: Run) -> None:
    async def work() -> None:
        async with FakePeer() as receiver:
            client = outgoing()
            for _ in range(5):
                await client.request("POST", url_of(receiver), body=b"{}")
            assert (receiver.connections, len(client._kept)) == (1, 1)
            await asyncio.gather(*(client.request("POST", url_of(receiver)) for _ in range(20)))
            assert receiver.connections == len(client._kept) <= 20
            await client.close()
            await receiver.until(lambda: receiver.ended == receiver.connections)
            assert (client._origins, client._kept) == ({}, {})
            await client.request("POST", url_of(receiver))  # what was under way when it closed is not kept
            assert (client._origins, client._kept) == ({}, {})

    run(work())


def test_a_connection_is_kept_for_a_while_only_even_if_it_is_used_all_the_time(run: Run) -> None:
    async def work() -> None:
        async with FakePeer() as receiver:
            client = outgoing(kept_seconds=0.1)
            async with asyncio.timeout(10):
                while receiver.connections < 3:
                    await client.request("POST", url_of(receiver), body=b"{}")
            await receiver.until(lambda: receiver.ended == receiver.connections)  # by itself
            assert (client._origins, client._kept) == ({}, {})

    run(work())


@pytest.mark.parametrize("last_words", [b"", b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"], ids=["none", "408"])
def test_a_connection_that_the_other_side_closed_is_not_used(last_words: bytes, run: Run) -> None:
    async def work() -> None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(OK)
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(last_words)
            writer.close()

        async with FakePeer(answer) as receiver:
            client = outgoing()
            for number in (1, 2):
                assert (await client.request("POST", url_of(receiver), body=b"{}")).status == 200
                await receiver.until(lambda number=number: receiver.ended == number)
            assert len(receiver.requests) == receiver.connections == 2
            await client.close()

    run(work())


def test_a_request_that_met_a_closing_connection_is_sent_once_more(run: Run) -> None:
    async def work() -> None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(receiver.requests) in {2, 4, 5}:
                writer.close()  # with the request in hand
            else:
                writer.write(OK)

        async with FakePeer(answer) as receiver:
            client = outgoing()
            for _ in range(2):
                assert (await client.request("POST", url_of(receiver), body=b"{}")).status == 200
            assert (len(receiver.requests), receiver.connections) == (3, 2)
            assert await failed(client, receiver) == "closed"  # but only once
            assert (len(receiver.requests), receiver.connections) == (5, 3)

    run(work())


def test_a_request_is_sent_twice_at_most_however_many_connections_are_kept(run: Run) -> None:
    async def work() -> None:
        is_open = asyncio.Event()

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await is_open.wait()
            if len(receiver.requests) > 3:
                writer.close()
            else:
                writer.write(OK)

        async with FakePeer(answer) as receiver:
            client = outgoing()
            tasks = [asyncio.create_task(client.request("POST", url_of(receiver))) for _ in range(3)]
            await receiver.until(lambda: len(receiver.requests) == 3)
            is_open.set()
            await asyncio.gather(*tasks)
            assert len(client._kept) == 3
            assert await failed(client, receiver) == "closed"
            assert len(receiver.requests) == 5
            await client.close()

    run(work())


@pytest.mark.parametrize("more", [b"x", OK], ids=["a byte", "an answer"])
def test_an_answer_that_nobody_asked_for_ends_the_connection(more: bytes, run: Run) -> None:
    async def work() -> None:
        async with FakePeer(OK + more) as receiver:
            client = outgoing()
            for _ in range(2):
                assert (await client.request("POST", url_of(receiver), body=b"{}")).body == b"ok"
            assert receiver.connections == 2

    run(work())


def test_the_longest_kept_connection_goes_when_there_are_too_many(run: Run) -> None:
    async def work() -> None:
        async with FakePeer() as one, FakePeer() as other:
            client = outgoing(kept=1)
            await client.request("POST", url_of(one))
            await client.request("POST", url_of(other))
            await one.until(lambda: one.ended == 1)
            await client.request("POST", url_of(other))
            assert (other.connections, len(client._kept)) == (1, 1)
            await client.close()

    run(work())


def test_a_caller_that_gives_up_closes_the_connection(run: Run) -> None:
    async def work() -> None:
        async with FakePeer(repeats(CHUNKED, b"1\r\nx\r\n", pause=0.01)) as receiver:
            client = outgoing()
            task = asyncio.create_task(client.request("POST", url_of(receiver)))
            await receiver.until(lambda: len(receiver.requests) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await receiver.until(lambda: receiver.ended == 1)
            assert (client._origins, client._kept) == ({}, {})

    run(work())


def test_a_name_server_that_hangs(run: Run) -> None:
    async def work() -> None:
        async def hang(_host: str, _port: int) -> Sequence[str]:
            await asyncio.Event().wait()
            return []

        client = Outgoing(resolve=hang, bounds=Bounds(connect_seconds=0.1))
        with pytest.raises(Unreachable) as unreachable:
            await client.request("GET", "https://hooks.example.com/")
        assert unreachable.value.kind == "dns"
        assert client._origins == {}

    run(work())


def test_a_receiver_that_takes_no_connection(run: Run) -> None:
    """Its TLS never begins."""

    async def work() -> None:
        async with FakePeer() as receiver:
            client = Outgoing(allow_loopback=True, bounds=Bounds(connect_seconds=0.1))
            with pytest.raises(Unreachable) as unreachable:
                await client.request("GET", f"https://127.0.0.1:{receiver.port}/")
            assert unreachable.value.kind == "timeout"
            await receiver.until(lambda: receiver.ended == 1)
            assert receiver.requests == []
        with pytest.raises(Unreachable) as unreachable:
            await client.request("GET", f"https://127.0.0.1:{receiver.port}/")
        assert unreachable.value.kind == "connect"

    run(work())


def test_the_systems_resolver(run: Run) -> None:
    async def work() -> None:
        lookup = Lookup()
        assert "127.0.0.1" in await lookup("localhost", 80)
        assert await lookup("8.8.8.8", 443) == ["8.8.8.8"]
        for wrong in ("a" * 64 + ".example", "::1%no-such-link"):
            with pytest.raises((OSError, ValueError)):
                await lookup(wrong, 80)
        assert lookup._under_way == {}

    run(work())


def test_nobody_keeps_a_thread_by_giving_up(run: Run) -> None:
    async def work() -> None:
        lookup = Lookup()
        waiting = [asyncio.create_task(lookup("localhost", 80)) for _ in range(limits.OUTGOING_LOOKUPS_MAX * 2)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert "127.0.0.1" in await lookup("localhost", 80)

    run(work())


def test_the_answer_says_how_long_it_took(run: Run) -> None:
    async def work() -> None:
        async with FakePeer() as receiver:
            client = outgoing()
            answer: Answer = await client.request("GET", url_of(receiver))
            assert isinstance(answer.milliseconds, int)
            assert answer.milliseconds >= 0
            await client.close()

    run(work())
