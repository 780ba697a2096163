"""A disk under SQLite that loses power: what was not synced is kept or lost, sector by sector, as chance has it; a sync may fail before that.

After a failed sync the operating system believes the pages clean: later syncs no longer bring them to the disk (Rebello et al., "Can
Applications Recover from fsync Failures?", 2020). Reads see what was written, as from the page cache.
"""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512


class Disk(apsw.VFS):
    """A file layer of its own name; `operations_left` writes and syncs until the power goes."""

    def __init__(self, dice: random.Random, *, operations_left: int, sync_failures: float = 0.0) -> None:
        self.name = f"disk-{id(self):x}-{dice.getrandbits(32):x}"
        super().__init__(self.name, "unix")
        self.dice, self.operations_left, self.sync_failures = dice, operations_left, sync_failures
        self.files: dict[str, _Stored] = {}
        self.has_power = True
        self.syncs = self.failed_syncs = 0

    def add(self, path: Path) -> None:
        """A file that is there from the beginning, whole."""
        self.files[path.name] = _Stored(path.read_bytes())

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "_File":  # noqa: N802 - SQLite's name
        return _File(self, name, flags)

    def operate(self) -> None:
        """Count an operation. Raises apsw.IOError from the one on at which the power goes."""
        self.operations_left -= 1
        if self.operations_left < 0:
            self.has_power = False
            raise apsw.IOError("no power")

    def write_remains(self, folder: Path) -> None:
        """What a machine that starts again finds."""
        folder.mkdir(parents=True)
        for name, stored in self.files.items():
            (folder / name).write_bytes(stored.after_loss(self.dice))


class _Stored:
    """What surely survives of a file, and the writes since it was synced."""

    def __init__(self, durable: bytes) -> None:
        self.durable = bytearray(durable)
        self.unsynced: list[tuple[int, bytes] | int] = []  # offset and data, or a new length

    def apply(self, changes: Iterable[tuple[int, bytes] | int]) -> None:
        for change in changes:
            if isinstance(change, int):
                del self.durable[change:]
                continue
            offset, data = change
            self.durable.extend(bytes(max(0, offset + len(data) - len(self.durable))))
            self.durable[offset : offset + len(data)] = data

    def sync(self) -> None:
        self.apply(self.unsynced)
        self.unsynced.clear()

    def lose(self, dice: random.Random) -> None:
        """Some sectors arrive, the others never will."""
        share = dice.choice((0.0, 0.5, 0.9, 1.0))
        self.apply(part for change in self.unsynced for part in _sectors(change) if dice.random() < share)
        self.unsynced.clear()

    def after_loss(self, dice: random.Random) -> bytes:
        self.lose(dice)
        return bytes(self.durable)


def _sectors(change: tuple[int, bytes] | int) -> Iterable[tuple[int, bytes] | int]:
    if isinstance(change, int):
        yield change
        return
    offset, data = change
    while data:
        length = SECTOR - offset % SECTOR
        yield offset, data[:length]
        offset, data = offset + length, data[length:]


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk = disk
        self._stored = disk.files.setdefault(Path(path).name, _Stored(b"")) if path else _Stored(b"")

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.operate()
        super().xWrite(data, offset)
        self._stored.unsynced.append((offset, bytes(data)))

    def xTruncate(self, length: int) -> None:  # noqa: N802
        self._disk.operate()
        super().xTruncate(length)
        self._stored.unsynced.append(length)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.operate()
        if self._disk.dice.random() < self._disk.sync_failures:
            self._disk.failed_syncs += 1
            self._stored.lose(self._disk.dice)
            raise apsw.IOError("a sync failed")
        super().xSync(flags)
        self._disk.syncs += 1
        self._stored.sync()


class Driver:
    """apsw's connection in the words of sqlite3's that the ledger uses."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> "_Rows":
        return _Rows(self.connection.execute(statement, tuple(parameters)).fetchall())

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        self.connection.executemany(statement, (tuple(row) for row in rows)).fetchall()


class _Rows:
    def __init__(self, rows: list[Any]) -> None:
        self._rows = iter(rows)

    def __iter__(self) -> Any:
        return self._rows

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def fetchone(self) -> Any:
        return next(self._rows, None)
