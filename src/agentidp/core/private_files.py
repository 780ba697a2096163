"""Files that only their owner may read, written so that a crash leaves the whole file, or the one before it, or none."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def private_file(path: Path) -> Iterator[TextIO]:
    """A new file: there, whole and durable, once the block has ended well; until then it is at its `name`. Raises FileExistsError."""
    with _partial(path) as (partial, file):
        yield file
        _sync(file)
        os.link(partial, path)  # unlike a rename, it refuses to replace
        _sync_folder(path)


def replace_private_file(path: Path, text: str) -> None:
    """Put the text in the place of the file's; at any moment, also after a power loss, the file holds the one or the other."""
    with _partial(path) as (partial, file):
        file.write(text)
        _sync(file)
        partial.replace(path)
        _sync_folder(path)


def put_in_place(waiting: Path, path: Path) -> None:
    """Give the private file `waiting` its name. Does nothing where there is none, because another process is quicker for one.

    Raises FileExistsError, and leaves both alone, when another file has the name.
    """
    with contextlib.suppress(FileNotFoundError):
        try:
            os.link(waiting, path)
        except FileExistsError:
            if not waiting.samefile(path):  # else a process was killed right here
                raise
        _sync_folder(path)
        waiting.unlink()


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[tuple[Path, TextIO]]:
    # Of this writer alone: processes of several containers may share the folder and a number. "x" takes no file that is there, and follows no link.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    with open(partial, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
        try:
            yield partial, file
        finally:
            partial.unlink(missing_ok=True)


def _sync(file: TextIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Else the file may be without a name after a power loss, and what is sealed with it is lost."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
