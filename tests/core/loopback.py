"""A way out to receivers on this machine, with bounds of its own."""

from typing import Any

import pytest
from tests.fakes.fake_peer import FakePeer

from agentidp.core.outgoing import Bounds, Outgoing, Unreachable


def outgoing(**bounds: Any) -> Outgoing:
    return Outgoing(allow_loopback=True, bounds=Bounds(**bounds))


def url_of(receiver: FakePeer) -> str:
    return f"http://127.0.0.1:{receiver.port}/"


async def failed(client: Outgoing, receiver: FakePeer, tenant: str = "") -> str:
    with pytest.raises(Unreachable) as unreachable:
        await client.request("POST", url_of(receiver), body=b"{}", tenant=tenant)
    return unreachable.value.kind
