"""How fast a sealed history is verified, against hashing and encoding the same documents alone; runs in a process of its own.

    python -m bench.verification FOLDER COUNT ROUNDS

The folder holds a stopped instance with one `token.issued` event in its SQLite file; the chain is made of copies of it.
"""

import asyncio
import json
import resource
import sqlite3
import sys
import time
from pathlib import Path

from agentidp.audit.history import verify_history
from agentidp.audit.queries import list_links
from agentidp.audit.rules import Dates
from agentidp.core.caller import Caller
from agentidp.core.config import load
from agentidp.core.ids import new_id
from agentidp.db.unit import Database
from agentidp.ledger.chain import ROW, ChainedEvent, event_hash, from_row
from agentidp.start import start

_SAMPLE = 10_000  # documents that are hashed and encoded again and again for the ceiling: they have to fit into memory
_REPEATED = 20
_COMMIT_EVENTS = 50_000


def make_chain(path: Path, organization_id: str, count: int) -> None:
    """Seal that many copies of the newest token event, each of another agent, target and request."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    names = ", ".join(ROW)
    newest = connection.execute(f"SELECT {names} FROM audit_events WHERE action = 'token.issued' ORDER BY event_id DESC LIMIT 1").fetchone()
    model = dict(zip(ROW, newest, strict=True)) | {"organization_id": organization_id, "previous_hash": "0" * 64}
    insert = f"INSERT INTO audit_events ({names}) VALUES ({', '.join('?' * len(ROW))})"
    for begin in range(0, count, _COMMIT_EVENTS):
        rows = []
        for seq in range(begin + 1, min(begin + _COMMIT_EVENTS, count) + 1):
            now = model["timestamp"] + seq
            row = model | {"seq": seq, "timestamp": now, "event_id": new_id(now), "agent_id": new_id(now), "target_id": new_id(now), "request_id": new_id(now)}
            row["hash"] = event_hash(from_row(tuple(row.values())))
            rows.append(tuple(row.values()))
            model["previous_hash"] = row["hash"]
        connection.execute("BEGIN")
        connection.executemany(insert, rows)
        connection.execute("COMMIT")
    connection.execute("INSERT INTO audit_heads VALUES (?, 0, ?, ?, 0, NULL, 0, 0, 0)", (organization_id, count, model["previous_hash"]))
    connection.close()


async def measure(folder: Path, count: int, rounds: int) -> dict[str, list[float]]:
    """Events per second of both, round by round, and the memory in use after each verification, in MB."""
    organization_id = new_id(0)
    started = await start(load(data_dir=folder))
    database, key = started.instance.database, started.instance.audit_key
    try:
        await asyncio.to_thread(make_chain, folder / "agentidp.db", organization_id, count)
        caller = Caller(organization_id)
        found: dict[str, list[float]] = {"ceiling": [], "verification": [], "rss_mb": []}
        for _ in range(rounds):
            found["ceiling"].append(await _ceiling(database, caller, _SAMPLE))
            begun = time.perf_counter()
            verified = await verify_history(database, caller, key, Dates(), _goes_on)
            found["verification"].append(count / (time.perf_counter() - begun))
            assert (verified.broken, verified.to_seq) == (None, count)
            found["rss_mb"].append(_rss_mb())
        return found
    finally:
        await database.close()


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize() / 1e6


async def _goes_on() -> bool:
    return True


async def _ceiling(database: Database, caller: Caller, count: int) -> float:
    """Over and over the same documents, which lie in memory."""
    events: list[ChainedEvent] = []
    while len(events) < count:
        rows, _ = await database.read(list_links, caller, len(events), count)
        events += map(from_row, rows)
    begun = time.perf_counter()
    for _ in range(_REPEATED):
        for event in events:
            event_hash(event)
    return _REPEATED * count / (time.perf_counter() - begun)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))))
