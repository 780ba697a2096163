"""Chains for tests, made without a database: events that are sealed, and checkpoints of them."""

import hashlib
from typing import Any

from agentidp.core.ids import first_id
from agentidp.ledger.chain import FIRST_PREVIOUS_HASH, ChainedEvent, event_hash, from_row
from agentidp.ledger.checkpoint import Checkpoint, VerifierKey, origin, sign, verifier_key

ISSUER = "https://id.example.com"
ORGANIZATION = "0198c5a2-7d1e-7c3a-9f00-5b1d2e3f4a5b"
OTHER_ORGANIZATION = "0198c5a2-7d1e-7c3a-9f00-000000000000"
SEED = hashlib.sha256(b"a key for tests").digest()
BEGUN = 1_790_000_000_000


def event(seq: int, previous_hash: str, **changed: Any) -> ChainedEvent:
    """A sealed event that is unlike its neighbours in every column."""
    columns: dict[str, Any] = {
        "action": f"test.action_{seq}",
        "agent_id": first_id(BEGUN + 3 * seq),
        "event_id": first_id(BEGUN + seq),
        "ip_address": f"192.0.2.{seq % 250}",
        "metadata": f'{{"number": {seq}, "a": ["\u00e4\\n"]}}',
        "organization_id": ORGANIZATION,
        "outcome": "success" if seq % 2 else "failure",
        "previous_hash": previous_hash,
        "request_id": f"request-{seq}",
        "seq": seq,
        "target_id": first_id(BEGUN + 5 * seq),
        "target_type": f"kind-{seq}",
        "timestamp": BEGUN + seq,
        "user_agent": f"tests/{seq}",
        "hash": None,
    } | changed
    made = from_row(tuple(columns.values()))
    made.hash = event_hash(made)
    return made


def chain(length: int, **changed: Any) -> list[ChainedEvent]:
    made: list[ChainedEvent] = []
    for seq in range(1, length + 1):
        made.append(event(seq, str(made[-1].hash) if made else FIRST_PREVIOUS_HASH, **changed))
    return made


def note(events: list[ChainedEvent], *, organization_id: str = ORGANIZATION, issuer: str = ISSUER, seed: bytes = SEED) -> str:
    """A checkpoint of all of them."""
    head = str(events[-1].hash) if events else FIRST_PREVIOUS_HASH
    return sign(Checkpoint(origin(issuer, organization_id), len(events), head, BEGUN + 10_000), seed)


def key(*, organization_id: str = ORGANIZATION, issuer: str = ISSUER, seed: bytes = SEED) -> VerifierKey:
    return verifier_key(seed, origin(issuer, organization_id))
