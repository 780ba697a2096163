"""`agentidp audit verify|export|checkpoint|tail`. `verify` needs neither a server nor a database."""

import contextlib
import json as json_module
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

from cyclopts import App, Parameter

from agentidp.audit.exports import MEANINGS, BadExport, Checked, check_export
from agentidp.cli.client import Login, Session
from agentidp.cli.settings import Json
from agentidp.core import limits
from agentidp.core.errors import Problem
from agentidp.core.private_files import private_file
from agentidp.ledger.chain import Break
from agentidp.ledger.checkpoint import NOTE_CHARACTERS_MAX, BadCheckpoint, parse_verifier_key

app = App(name="audit", help="The audit trail: follow it, export it, verify an export.")
_SCOPE = "audit:read"
_POLL_SECONDS = 1.0
_TAIL_MAX = limits.AUDIT_PAGE_LIMIT_MAX


@app.command
def verify(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True, help="What `audit export` wrote; - reads standard input.")],
    *,
    checkpoint: Annotated[list[Path] | None, Parameter(help="A checkpoint kept from before; may be repeated.")] = None,
    key: Annotated[str | None, Parameter(help="The verifier key of the chain; without it no signature is checked.")] = None,
    part: Annotated[bool, Parameter(negative="", help="The file is of some dates: it may begin and end in the middle of the history.")] = False,
    json: Json = False,
) -> None:
    """Check an export against itself and against checkpoints that you kept. Exit code 1 if anything was changed, with the first event that was.

    The file alone cannot show that its end was cut, or that all of it was made anew, by somebody who has the server's key; a checkpoint
    from before can.

    For example:

        agentidp audit verify export.ndjson --checkpoint last-month.note --key "$(cat audit.key)"
    """
    notes = [_read_note(path) for path in checkpoint or ()]
    try:
        proven_by = parse_verifier_key(key) if key else None
        with _opened(file) as opened:
            lines = iter(lambda: opened.readline(limits.AUDIT_LINE_BYTES_MAX), b"")
            found = check_export(lines, key=proven_by, kept=notes, is_part=part)
    except (BadExport, BadCheckpoint) as error:
        raise Problem(str(error)) from error
    if json:
        print(json_module.dumps(_as_json(found, signed=proven_by is not None)))
    if found.broken is not None:
        raise Problem(_explain(found, found.broken))
    if not json:
        _print_good(found, kept=len(notes), signed=proven_by is not None)


@app.command
def export(
    *,
    login: Login | None = None,
    output: Annotated[Path | None, Parameter(help="A new file, for its owner only; standard output when absent.")] = None,
    from_date: Annotated[str | None, Parameter(help="Not before this instant, such as 2026-11-22T00:00:00Z.")] = None,
    to_date: Annotated[str | None, Parameter(help="Not after this instant.")] = None,
) -> None:
    """Write the sealed history, oldest first, an event a line; the last line is its checkpoint.

    For example:

        agentidp audit export --output export.ndjson
        agentidp audit export --from-date 2026-11-01T00:00:00Z | gzip > november.ndjson.gz
    """
    dates = {name: value for name, value in (("fromDate", from_date), ("toDate", to_date)) if value is not None}
    end = b""
    with _created(output) as file:
        for piece in Session(login or Login(), _SCOPE).stream("/api/v1/audit/export", dates):
            file.write(piece)
            end = (end + piece)[-2 * NOTE_CHARACTERS_MAX :]
        file.flush()
        if not end.endswith(b"\n") or b'\n{"checkpoint":' not in b"\n" + end:  # no file is left of it
            raise Problem("the export was cut on its way; run the command again")


@app.command
def checkpoint(
    *,
    login: Login | None = None,
    output: Annotated[Path | None, Parameter(help="A new file; standard output when absent.")] = None,
    verifier_key: Annotated[bool, Parameter(negative="", help="The key that verifies the checkpoints of this chain, instead.")] = False,
    json: Json = False,
) -> None:
    """Print the signed head of the history. Keep it where whoever runs the server cannot change it.

    For example:

        agentidp audit checkpoint --output 2026-11-22.note
        agentidp audit checkpoint --verifier-key > audit.key
    """
    answer = Session(login or Login(), _SCOPE).get("/api/v1/audit/checkpoint", {})
    text = json_module.dumps(answer) + "\n" if json else f"{answer['verifierKey']}\n" if verifier_key else answer["note"]
    with _created(output) as file:
        file.write(text.encode())


@app.command
def tail(
    *,
    login: Login | None = None,
    lines: Annotated[int, Parameter(name=["--lines", "-n"], help=f"How many to begin with, up to {_TAIL_MAX}.")] = 10,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="", help="Go on with what happens from now on, until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Print the newest events, the newest last.

    For example:

        agentidp audit tail -n 50
        agentidp audit tail --follow --json | grep auth.failed
    """
    session = Session(login or Login(), _SCOPE)
    page = session.get("/api/v1/audit", {"limit": max(1, min(lines, _TAIL_MAX))})
    shown = page["data"] if lines > 0 else []
    _print_events(shown, json=json)
    seen = {event["eventId"] for event in page["data"]}
    while follow:
        time.sleep(_POLL_SECONDS)
        fresh = _fresh(session, seen)
        _print_events(fresh, json=json)
        # An id may appear below one that was seen: processes commit in any order. What is far below is not looked at again.
        seen = set(sorted(seen | {event["eventId"] for event in fresh})[-10 * _TAIL_MAX :])


def _fresh(session: Session, seen: set[str]) -> list[dict[str, Any]]:
    """What is not seen yet, newest first: page after page, until one brings nothing new."""
    fresh: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": _TAIL_MAX}
    while True:
        page = session.get("/api/v1/audit", query)
        oldest = min(seen, default="")
        new = [event for event in page["data"] if event["eventId"] not in seen and event["eventId"] > oldest]
        fresh += new
        if not new or page["nextCursor"] is None:
            return fresh
        query["cursor"] = page["nextCursor"]


def _print_events(newest_first: list[dict[str, Any]], *, json: bool) -> None:
    for event in reversed(newest_first):
        target = f"{event['targetType'] or ''} {event['targetId'] or ''}".strip() or "-"
        text = f"{event['timestamp']}  {event['outcome']:<7}  {event['action']:<20}  {event['agentId'] or '-':<36}  {target}  {event['ipAddress'] or '-'}"
        print(json_module.dumps(event) if json else text)
    sys.stdout.flush()


def _explain(found: Checked, broken: Break) -> str:
    good = f"events {found.from_seq} to {found.to_seq} are good" if found.to_seq >= found.from_seq else "no event is good"
    if broken.event_id is not None:
        return f"event {broken.seq} ({broken.event_id}): {MEANINGS[broken.reason]}; {good}"
    if broken.seq > found.to_seq:
        return f"the history ends with event {found.to_seq}, but a checkpoint was signed for {broken.seq}: its end was cut, or it is older than the checkpoint"
    return f"event {broken.seq}: {MEANINGS[broken.reason]}; {good}"


def _as_json(found: Checked, *, signed: bool) -> dict[str, Any]:
    broken = found.broken
    return {
        "verified": broken is None,
        "organizationId": found.organization_id,
        "fromSeq": found.from_seq,
        "toSeq": found.to_seq,
        "brokenAtEventId": broken.event_id if broken else None,
        "brokenAtSeq": broken.seq if broken else None,
        "reason": broken.reason if broken else None,
        "signaturesChecked": signed,
    }


def _print_good(found: Checked, *, kept: int, signed: bool) -> None:
    if found.organization_id is None:
        print("no events")
    else:
        print(f"events {found.from_seq} to {found.to_seq} of organization {found.organization_id}: good")
    held = f" and {kept} kept" if kept else ""
    print(f"checkpoint at its end{held}: {'good' if signed else 'good, but signatures were not checked; give --key'}")


def _read_note(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(NOTE_CHARACTERS_MAX + 1)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path == Path("-"):
        yield sys.stdin.buffer
        return
    with path.open("rb") as file:
        yield file


@contextlib.contextmanager
def _created(path: Path | None) -> Iterator[IO[bytes]]:
    """A new file that only its owner may read, under its name once it is whole; or standard output. Raises Problem when the name is taken."""
    if path is None:
        yield sys.stdout.buffer
        return
    if path.exists():
        raise Problem(f"{path} exists; give another name")
    try:
        with private_file(path) as file:
            yield file.buffer
    except FileExistsError as error:  # taken meanwhile
        raise Problem(f"{path} exists; give another name") from error
