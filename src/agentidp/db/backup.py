"""Whole copies of SQLite databases, while a server may be writing, and putting one in the place of another.

The connection that reads cannot write, so it never checkpoints (see `db.sqlite`). It reads inside one transaction: without it, every
commit of a server would make the copy begin anew, and under load it would never end. The server's log grows meanwhile; nobody waits.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from agentidp.core import limits
from agentidp.core.errors import Conflict
from agentidp.core.private_files import private_file

Progress = Callable[[int, int], None]  # how much is done, of how much
_BESIDE = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a file


@contextlib.contextmanager
def new_copy(original: Path, target: Path, progress: Progress) -> Iterator[Path]:
    """A sound copy of the original for the block to look at and to change; it gets the name `target`, durably, when the block has ended well.

    Raises Conflict when the original is no database or is damaged, FileExistsError when there is something at `target` by then.
    """
    with private_file(target) as file:
        copy = Path(file.name)
        try:
            _copy(original, copy, progress)
            yield copy
            _require_no_log(copy)
        finally:
            for suffix in _BESIDE:
                copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def _copy(original: Path, copy: Path, progress: Progress) -> None:
    address = f"file:{quote(str(original.absolute()))}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
            source.execute("BEGIN")
            source.execute("SELECT name FROM sqlite_schema").fetchone()  # what is committed by now is what is copied
            source.backup(target, pages=limits.BACKUP_STEP_PAGES, progress=lambda _, remaining, total: progress(total - remaining, total))
            target.execute("PRAGMA journal_mode=DELETE")  # one file, without a log
            found = target.execute("PRAGMA integrity_check(1)").fetchone()[0]
            broken = target.execute("PRAGMA foreign_key_check").fetchone()
    except sqlite3.Error as error:
        raise Conflict(f"{original} cannot be copied: {error}") from error
    if found != "ok" or broken:
        raise Conflict(f"{original} is damaged: {found.splitlines()[-1] if found != 'ok' else f'a row of {broken[0]} refers to nothing'}")


def bring_in_log(path: Path) -> None:
    """Leave all of the database in its one file. Raises Conflict when that fails: SQLite, where the last connection closes, tells nobody."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=limits.SQLITE_BUSY_MS / 1000, isolation_level=None)) as connection:
            connection.execute("SELECT name FROM sqlite_schema").fetchone()  # before it has read, SQLite may not know that there is a log
            is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise Conflict(f"the log of {path} cannot be brought into it: {error}") from error
    if is_busy:
        raise Conflict(f"the log of {path} cannot be brought into it: another program reads it")
    _require_no_log(path)


def _require_no_log(path: Path) -> None:
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise Conflict(f"{log} holds what is not in {path} yet")


def set_aside(path: Path, mark: str) -> Path | None:
    """Rename the database, and its log with it, which must never meet another database. Returns the new name, None when there was none.

    Nobody may have it open. The log is brought in first, so that a crash between two names loses nothing; it goes along where that cannot be,
    because the file is damaged. Raises Conflict when the new name is taken.
    """
    aside = path.with_name(f"{path.name}.{mark}")
    if aside.exists():
        raise Conflict(f"{aside} exists")
    found = path.exists()
    if found and path.stat().st_size:  # beside an empty file, SQLite throws the log away
        with contextlib.suppress(Conflict):
            bring_in_log(path)
    for suffix in ("", *_BESIDE):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside if found else None
