"""Files for their owner only: writers that share a folder, and a process number, never meet."""

import stat
import threading
from pathlib import Path

import pytest

from agentidp.core.private_files import private_file, put_in_place, replace_private_file


def test_writers_of_one_process_number_do_not_meet(tmp_path: Path) -> None:
    """As two containers have it: both are process 1. The one that is later must neither write into the other's file nor take it away."""
    path, is_open, may_end = tmp_path / "key", threading.Event(), threading.Event()

    def write_first() -> None:
        with private_file(path) as file:
            file.write("first")
            is_open.set()
            assert may_end.wait(10)

    thread = threading.Thread(target=write_first)
    thread.start()
    assert is_open.wait(10)
    with pytest.raises(UnicodeEncodeError), private_file(path) as file:
        file.write("the second fails: \udc80")
    replace_private_file(tmp_path / "other", "text")
    may_end.set()
    thread.join(10)
    assert path.read_text() == "first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(found.name for found in tmp_path.iterdir()) == ["key", "other"]


def test_a_taken_name_stays_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "key"

    def write_while_another_is_quicker() -> None:
        with private_file(path) as late:
            late.write("late")
            with private_file(path) as quick:
                quick.write("quick")

    with pytest.raises(FileExistsError):
        write_while_another_is_quicker()
    assert path.read_text() == "quick"
    assert [found.name for found in tmp_path.iterdir()] == ["key"]


def test_a_file_that_waits_gets_its_name_once(tmp_path: Path) -> None:
    waiting, path = tmp_path / "key.waiting", tmp_path / "key"
    waiting.write_text("ours")
    path.hardlink_to(waiting)  # a process was killed before it took the first name away
    put_in_place(waiting, path)
    put_in_place(waiting, path)
    assert {found.name: found.read_text() for found in tmp_path.iterdir()} == {"key": "ours"}
    waiting.write_text("another")
    with pytest.raises(FileExistsError):
        put_in_place(waiting, path)
    assert {found.name: found.read_text() for found in tmp_path.iterdir()} == {"key": "ours", "key.waiting": "another"}
