"""The command line in the process of the test, and instances for it to work on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentidp.cli import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def agentidp(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line. Returns exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code: Any = 0
        try:
            main(list(arguments))
        except SystemExit as left:
            code = left.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder that the settings name, on SQLite."""
    monkeypatch.setenv("AGENTIDP_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def instance(data: Path, database_url: str, agentidp: Command, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An instance that `init` has set up, on each engine."""
    monkeypatch.setenv("AGENTIDP_DATABASE_URL", database_url)
    code, out, err = agentidp("init", "--json")
    assert (code, err) == (0, "")
    document: dict[str, str] = json.loads(out)
    return document


@pytest.fixture
def file(data: Path, agentidp: Command) -> Path:
    """The SQLite file of a fresh instance that nobody has open."""
    assert agentidp("init")[0] == 0
    return data / "agentidp.db"
