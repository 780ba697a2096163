"""kill -9 between any two steps of `keys rotate-master`: the database opens with what is left, the command goes on, and the old credential gets a token.

A step is what may be durable: a commit, a sync, a file put in place. The process kills itself right before its n-th step: for every n in the long run, for three in the short one.
"""

import asyncio
import contextlib
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.auth.first_release import make_old_at
from tests.conftest import fresh_postgres_database
from tests.processes import COMMAND, ServerProcess, environment, run

from agentidp.core.secrets import new_master_key

pytestmark = pytest.mark.slow

_PROGRAM = """
import os, signal, sys, threading
from agentidp.cli import main
limit, steps = int(sys.argv[1]), 0
def step(frame, event, argument):
    global steps
    of_postgres = event == "call" and frame.f_code.co_name == "commit" and frame.f_code.co_filename.endswith("asyncpg/transaction.py")
    if of_postgres or (event == "c_call" and (argument in (os.fsync, os.replace) or argument.__name__ == "commit")):
        if steps == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
threading.setprofile(step)
sys.setprofile(step)
try:
    main(["keys", "rotate-master", "--new-data-key"])
finally:
    print(steps, file=sys.stderr)
"""
_NEVER = 1_000_000


class Rotation:
    """A copy of an instance, at the moment when its operator has set the new key, or has the one in the file replaced."""

    def __init__(self, folder: Path, settings: dict[str, str], new_key: str | None) -> None:
        self.folder, self.settings = folder, settings
        if new_key:
            self.settings = settings | {"MASTER_KEY": new_key, "MASTER_KEY_PREVIOUS": settings["MASTER_KEY"]}

    @property
    def env(self) -> dict[str, str]:
        return {"AGENTIDP_DATA_DIR": str(self.folder / "data")} | {f"AGENTIDP_{name}": value for name, value in self.settings.items()}

    def run_until(self, step: int) -> int:
        """Kill the command right before the step. Returns how many there were when it has come to its end."""
        result = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(step)], env=environment(self.env), capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == (0 if step == _NEVER else -signal.SIGKILL), result.stderr
        return int(result.stderr or 0)

    def require_token(self) -> None:
        """A server starts with what is there, and the credential from before gets a token."""
        server = ServerProcess(self.folder, **self.settings)
        try:
            assert server.token()["token_type"] == "Bearer"
        finally:
            server.stop()

    def require_resumed(self) -> None:
        """The same command once more ends it; then the old key is dropped, and a server starts."""
        result = run("keys", "rotate-master", env=self.env)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
        assert "Everything is under" in result.stdout
        self.settings = {name: value for name, value in self.settings.items() if name != "MASTER_KEY_PREVIOUS"}
        self.require_token()


def interrupt(make: Callable[[int], Rotation], amount: Callable[[int, int], int], dice: random.Random) -> tuple[int, int]:
    """Interrupt before steps, each on an instance of its own: before every one in the long run. Returns how many were tried and how many there are."""
    whole = make(_NEVER)
    total = whole.run_until(_NEVER)
    whole.require_resumed()
    tried = sorted(dice.sample(range(total), min(total, amount(3, total))))
    for step in tried:
        found = make(step)
        found.run_until(step)
        found.require_token()
        found.require_resumed()
    return len(tried), total


@pytest.mark.parametrize("release", ["this", "first"])
def test_interrupted_with_the_key_in_a_file(
    release: str, tmp_path: Path, amount: Callable[[int, int], int], dice: random.Random, seed: int, table: Any
) -> None:
    template = tmp_path / "template"
    assert run("init", env={"AGENTIDP_DATA_DIR": str(template / "data")}).returncode == 0
    if release == "first":
        asyncio.run(make_old_at(f"sqlite:///{template / 'data' / 'agentidp.db'}", (template / "data" / "master.key").read_text()))

    def make(step: int) -> Rotation:
        shutil.copytree(template, tmp_path / str(step))
        return Rotation(tmp_path / str(step), {}, None)

    tried, total = interrupt(make, amount, dice)
    assert total > 6
    table(interrupted=tried, steps=total, lost=0, seed=seed)


def test_interrupted_on_postgresql(tmp_path: Path, postgres: str, amount: Callable[[int, int], int], dice: random.Random, seed: int, table: Any) -> None:
    key = new_master_key()
    with contextlib.ExitStack() as databases:

        def make(step: int) -> Rotation:
            url = databases.enter_context(fresh_postgres_database(postgres))
            settings = {"MASTER_KEY": key, "DATABASE_URL": url}
            found = Rotation(tmp_path / str(step), settings, new_master_key())
            assert run("init", env=found.env | {"AGENTIDP_MASTER_KEY": key}).returncode == 0
            asyncio.run(make_old_at(url, key))
            return found

        tried, total = interrupt(make, amount, dice)
    assert total > 2
    table(interrupted=tried, steps=total, lost=0, seed=seed)


def test_the_file_holds_a_whole_key_whenever_it_is_read(tmp_path: Path) -> None:
    """A reader that looks all the time never sees half a file, and it is never readable for others."""
    rotation = Rotation(tmp_path, {}, None)
    assert run("init", env=rotation.env).returncode == 0
    path = tmp_path / "data" / "master.key"
    process = subprocess.Popen([COMMAND, "keys", "rotate-master"], env=environment(rotation.env), stdout=subprocess.DEVNULL)
    seen = set()
    while process.poll() is None:
        assert path.stat().st_mode & 0o077 == 0
        text = path.read_text()
        assert text.endswith("\n")
        assert {len(line) for line in text.splitlines()} == {43}
        seen.add(text)
    assert process.wait(60) == 0
    assert len(seen | {path.read_text()}) == 3, "the old key, both, the new one"
