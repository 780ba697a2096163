"""Whole copies of SQLite databases, under writes, from crashed ones, at any path."""

import contextlib
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentidp.core.errors import Conflict
from agentidp.db.backup import bring_in_log, new_copy, set_aside


def nothing_said(done: int, total: int) -> None:
    pass


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A database of about 20 MB with one row of `mark`."""
    path = tmp_path / "original.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE filler (content BLOB)")
        connection.execute("CREATE TABLE mark (number INTEGER)")
        connection.executemany("INSERT INTO filler VALUES (?)", [(b"x" * 3900,) for _ in range(5000)])
        connection.execute("INSERT INTO mark VALUES (0)")
    return path


@pytest.fixture
def writer(original: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(original, isolation_level=None)) as connection:
        yield connection


def marks(path: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [number for (number,) in connection.execute("SELECT number FROM mark ORDER BY number")]


def test_a_copy_never_begins_anew_however_much_is_written_meanwhile(original: Path, writer: sqlite3.Connection, tmp_path: Path) -> None:
    steps: list[int] = []

    def write_between_steps(done: int, total: int) -> None:
        assert not steps or done > steps[-1], "the copy began anew"
        assert done <= total
        steps.append(done)
        writer.execute("INSERT INTO mark VALUES (?)", (len(steps),))
        writer.execute("UPDATE filler SET content = zeroblob(3900) WHERE rowid = ?", (len(steps) * 900,))

    with new_copy(original, tmp_path / "copy.db", write_between_steps):
        pass
    assert len(steps) > 3
    assert marks(tmp_path / "copy.db") == [0], "what was committed when the copy began, and nothing later"
    assert marks(original) == list(range(len(steps) + 1))


def test_a_copy_is_one_private_file_with_a_log_s_content(original: Path, writer: sqlite3.Connection, tmp_path: Path) -> None:
    writer.execute("INSERT INTO mark VALUES (1)")
    assert original.with_name("original.db-wal").stat().st_size
    with new_copy(original, tmp_path / "copy.db", nothing_said):
        assert not (tmp_path / "copy.db").exists()
    assert marks(tmp_path / "copy.db") == [0, 1]
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("copy")) == ["copy.db"]


def test_the_original_is_only_read_even_after_a_crash(original: Path, writer: sqlite3.Connection, tmp_path: Path) -> None:
    """A second connection that brings the log into the file could lose commits of the first."""
    writer.execute("INSERT INTO mark VALUES (1)")
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for suffix in ("", "-wal"):
        (crashed / f"a.db{suffix}").write_bytes(original.with_name(f"original.db{suffix}").read_bytes())
    before = {path.name: path.read_bytes() for path in crashed.iterdir()}
    with new_copy(crashed / "a.db", tmp_path / "copy.db", nothing_said):
        pass
    assert marks(tmp_path / "copy.db") == [0, 1]
    assert {name: (crashed / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("name", ["a b.db", "what?mode=rwc.db", "50%25.db", "#1.db", "é.db"])
def test_any_path_will_do(original: Path, tmp_path: Path, name: str) -> None:
    odd = original.rename(tmp_path / name)
    with new_copy(odd, tmp_path / f"copy of {name}", nothing_said):
        pass
    assert marks(tmp_path / f"copy of {name}") == [0]


def test_a_block_that_fails_leaves_nothing(original: Path, tmp_path: Path) -> None:
    def fail(copy: Path) -> None:
        with contextlib.closing(sqlite3.connect(copy)) as changed:
            changed.execute("PRAGMA journal_mode=WAL")
            changed.execute("INSERT INTO mark VALUES (1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), new_copy(original, tmp_path / "copy.db", nothing_said) as copy:
        fail(copy)
    assert not list(tmp_path.glob("copy*"))


def test_a_change_that_stays_in_the_log_is_no_copy(original: Path, tmp_path: Path) -> None:
    """A reader in the way stands for a disk that fails: SQLite says nothing when the last connection closes."""

    def change(copy: Path) -> None:
        with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as reader, contextlib.closing(sqlite3.connect(copy)) as changed:
            reader.execute("PRAGMA journal_mode=WAL")
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM mark").fetchone()
            with changed:
                changed.execute("INSERT INTO mark VALUES (1)")
            with pytest.raises(Conflict, match="another program reads it"):
                bring_in_log(copy)
            log = copy.with_name(f"{copy.name}-wal").read_bytes()
        copy.with_name(f"{copy.name}-wal").write_bytes(log)

    with pytest.raises(Conflict, match="-wal holds what is not in"), new_copy(original, tmp_path / "copy.db", nothing_said) as copy:
        change(copy)
    assert not list(tmp_path.glob("copy*"))


def test_a_log_is_brought_in(original: Path, writer: sqlite3.Connection, tmp_path: Path) -> None:
    writer.execute("INSERT INTO mark VALUES (1)")
    bring_in_log(original)
    (tmp_path / "alone.db").write_bytes(original.read_bytes())
    assert marks(tmp_path / "alone.db") == [0, 1]


def test_a_copy_takes_nobodys_name(original: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("somebody else's")
    with pytest.raises(FileExistsError), new_copy(original, tmp_path / "copy.db", nothing_said):
        pass
    assert (tmp_path / "copy.db").read_text() == "somebody else's"


def test_a_row_that_refers_to_nothing_is_found(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "broken.db")) as connection, connection:
        connection.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE child (parent INTEGER REFERENCES parent)")
        connection.execute("INSERT INTO child VALUES (1)")
    with pytest.raises(Conflict, match="a row of child refers to nothing"), new_copy(tmp_path / "broken.db", tmp_path / "copy.db", nothing_said):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["broken.db"]


def test_a_database_is_set_aside_with_its_log(original: Path, writer: sqlite3.Connection, tmp_path: Path) -> None:
    writer.execute("INSERT INTO mark VALUES (1)")
    aside = set_aside(original, "earlier")
    assert aside == tmp_path / "original.db.earlier"
    (tmp_path / "alone.db").write_bytes(aside.read_bytes())
    assert marks(tmp_path / "alone.db") == [0, 1], "all of it is in the one file, whatever happens to the names of the others"
    assert not list(tmp_path.glob("original.db-*"))
    assert not original.exists()
    assert marks(aside) == [0, 1]
    assert set_aside(original, "never") is None
    original.touch()
    with pytest.raises(Conflict, match="exists"):
        set_aside(original, "earlier")
    assert original.exists()


def test_a_log_without_its_database_is_set_aside_too(tmp_path: Path) -> None:
    """It would be taken for the log of whatever comes in its place."""
    (tmp_path / "lost.db-wal").write_bytes(b"log")
    assert set_aside(tmp_path / "lost.db", "earlier") is None
    assert [path.name for path in tmp_path.iterdir()] == ["lost.db.earlier-wal"]


def test_what_is_damaged_is_set_aside_as_it_is(tmp_path: Path) -> None:
    content = b"certainly not SQLite" * 1000
    (tmp_path / "damaged.db").write_bytes(content)
    assert set_aside(tmp_path / "damaged.db", "earlier") == tmp_path / "damaged.db.earlier"
    assert (tmp_path / "damaged.db.earlier").read_bytes() == content


def test_a_log_that_somebody_reads_goes_along(original: Path, writer: sqlite3.Connection) -> None:
    writer.execute("INSERT INTO mark VALUES (1)")
    writer.execute("BEGIN")
    assert writer.execute("SELECT count(*) FROM mark").fetchone() == (2,)
    aside = set_aside(original, "earlier")
    assert aside is not None
    assert not list(original.parent.glob("original.db-*"))
    assert marks(aside) == [0, 1]
