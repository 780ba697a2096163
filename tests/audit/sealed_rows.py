"""A long sealed history put straight into an SQLite file, each event as unlike the others as wished."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from tests.audit.chains import BEGUN, ORGANIZATION
from tests.audit.tampering import Hands

from agentidp.core.ids import first_id
from agentidp.ledger.chain import FIRST_PREVIOUS_HASH, ROW, event_hash, from_row

FILLED = {"agent_id": first_id(BEGUN), "ip_address": "192.0.2.1", "request_id": "r", "target_id": "t", "target_type": "token", "user_agent": "tests"}


def sealed_rows(length: int, values: Callable[[int], dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """In the order of `ROW`. `values` says what is special about the event with this number; `metadata` is a dictionary."""
    head = FIRST_PREVIOUS_HASH
    for seq in range(1, length + 1):
        known = {"action": "token.issued", "outcome": "success", "timestamp": BEGUN + seq, "metadata": {"scope": "a b", "seq": seq}, **FILLED}
        known |= {"organization_id": ORGANIZATION, "event_id": first_id(BEGUN + seq), "seq": seq, "previous_hash": head, "hash": None} | values(seq)
        known["metadata"] = msgspec.json.encode(known["metadata"], order="sorted").decode()
        known["hash"] = head = event_hash(from_row(tuple(known[name] for name in ROW)))
        yield tuple(known[name] for name in ROW)


async def put(hands: Hands, length: int, values: Callable[[int], dict[str, Any]] = lambda _: {}) -> list[tuple[Any, ...]]:
    rows = list(sealed_rows(length, values))
    insert = f"INSERT INTO audit_events ({', '.join(ROW)}) VALUES ({', '.join('?' * len(ROW))})"
    await hands.run(*((insert, row) for row in rows), ("INSERT INTO audit_heads VALUES (?, 0, ?, ?, 0, NULL, 0, 0, 0)", (ORGANIZATION, length, rows[-1][-1])))
    return rows
