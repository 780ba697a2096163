"""How many requests are under way at once: in all, to one origin, and of one tenant to it. Real listeners, small bounds."""

import asyncio

from tests.core.conftest import Run
from tests.core.loopback import failed, outgoing, url_of
from tests.fakes.fake_peer import OK, FakePeer, repeats


def test_requests_wait_for_their_turn_and_not_for_long(run: Run) -> None:
    async def work() -> None:
        is_open = asyncio.Event()

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await is_open.wait()
            writer.write(OK)

        async with FakePeer(answer) as slow, FakePeer() as quick:
            client = outgoing(requests_each=2, requests=3, turn_seconds=0.1)
            tasks = [asyncio.create_task(client.request("POST", url_of(slow))) for _ in range(2)]
            await slow.until(lambda: len(slow.requests) == 2)
            assert await failed(client, slow) == "busy"
            assert (await client.request("POST", url_of(quick))).status == 200  # the slow one's turns are its own
            is_open.set()
            assert [answer.status for answer in await asyncio.gather(*tasks)] == [200, 200]
            assert slow.connections == 2
            await client.close()
            assert client._origins == {}

    run(work())


def test_a_tenant_takes_nobody_elses_turns_at_an_origin_they_share(run: Run) -> None:
    async def work() -> None:
        async with FakePeer(lambda _, __: asyncio.sleep(10)) as provider:
            client = outgoing(requests_each=3, requests_of_one=2, turn_seconds=0.1, seconds=1)
            tasks = [asyncio.create_task(failed(client, provider, tenant="greedy")) for _ in range(3)]
            await provider.until(lambda: len(provider.requests) == 2)
            other = asyncio.create_task(failed(client, provider, tenant="other"))
            await provider.until(lambda: len(provider.requests) == 3)
            assert sorted(await asyncio.gather(*tasks, other)) == ["busy", "timeout", "timeout", "timeout"]
            await client.close()
            assert client._origins == {}

    run(work())


def test_a_turn_of_all(run: Run) -> None:
    async def work() -> None:
        async with FakePeer(repeats(b"", b"", pause=0.02)) as slow, FakePeer() as quick:
            client = outgoing(requests=1, turn_seconds=0.05, seconds=0.5)
            task = asyncio.create_task(failed(client, slow))
            await slow.until(lambda: len(slow.requests) == 1)
            assert await failed(client, quick) == "busy"
            assert await task == "timeout"
            assert (await client.request("POST", url_of(quick))).status == 200
            await client.close()

    run(work())
