"""`agentidp audit`: verify needs neither a server nor a database; export, checkpoint and tail talk to a running one."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.audit.chains import chain, key, note
from tests.processes import COMMAND, ServerProcess, environment, run, serving

from agentidp.audit.exports import event_line, last_line

EVENTS = chain(8)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("audit")) as running:
        yield running


@pytest.fixture
def export(tmp_path: Path) -> Path:
    path = tmp_path / "export.ndjson"
    path.write_bytes(b"".join([*map(event_line, EVENTS), last_line(note(EVENTS))]))
    return path


def test_verify_says_what_is_good_and_what_was_not_looked_at(export: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.note").write_text(note(EVENTS[:3]), "utf-8")
    good = run("audit", "verify", str(export), "--checkpoint", str(tmp_path / "kept.note"), "--key", str(key()))
    assert (good.returncode, good.stderr) == (0, "")
    assert "events 1 to 8" in good.stdout
    assert "not checked" not in good.stdout
    bare = run("audit", "verify", str(export))
    assert bare.returncode == 0
    assert "signatures were not checked" in bare.stdout
    answer = json.loads(run("audit", "verify", str(export), "--json").stdout)
    assert (answer["verified"], answer["toSeq"], answer["signaturesChecked"]) == (True, 8, False)


def test_verify_reads_standard_input(export: Path) -> None:
    with export.open("rb") as file:
        result = subprocess.run([COMMAND, "audit", "verify", "-"], stdin=file, env=environment(None), capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_verify_names_the_event_and_ends_with_1(export: Path, tmp_path: Path) -> None:
    export.write_bytes(export.read_bytes().replace(b"tests/5", b"tests/6"))
    broken = run("audit", "verify", str(export), "--key", str(key()))
    assert (broken.returncode, broken.stdout) == (1, "")
    assert broken.stderr.startswith(f"agentidp: event 5 ({EVENTS[4].event_id}): it was changed")
    answer = run("audit", "verify", str(export), "--json")
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["brokenAtEventId"] == EVENTS[4].event_id
    (tmp_path / "cut").write_bytes(export.read_bytes()[:-30])
    (tmp_path / "newer.note").write_text(note(chain(12)), "utf-8")
    for arguments in (["cut"], ["export.ndjson", "--checkpoint", "newer.note"], ["export.ndjson", "--key", "x+y+z"], ["nothing.ndjson"]):
        refused = run("audit", "verify", *(str(tmp_path / one) if "." in one or one == "cut" else one for one in arguments))
        assert refused.returncode == 1, arguments
        assert refused.stderr.count("\n") == 1


def test_verify_loads_no_database_and_no_web_framework(export: Path) -> None:
    program = (
        "import sys, agentidp.cli\ntry:\n    agentidp.cli.main(sys.argv[1:])\nexcept SystemExit as left:\n    assert not left.code\nprint(sorted(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program, "audit", "verify", str(export)], capture_output=True, text=True, timeout=60, check=True)
    assert not {f"'{name}'" for name in ("sqlalchemy", "fastapi", "uvicorn", "alembic")} & set(result.stdout.replace("[", "").replace("]", "").split(", "))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    program = "import sys, agentidp.cli\ntry:\n    agentidp.cli.main(sys.argv[1:])\nexcept SystemExit as left:\n    assert not left.code\n"
    program += "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    used = []
    for length in (100, 30_000):
        events = chain(length)
        path = tmp_path / f"{length}.ndjson"
        path.write_bytes(b"".join([*map(event_line, events), last_line(note(events))]))
        result = subprocess.run([sys.executable, "-c", program, "audit", "verify", str(path)], capture_output=True, text=True, timeout=120, check=True)
        used.append(int(result.stdout.splitlines()[-1]))
    assert used[1] - used[0] < 4_000  # KB; the longer file has 20 MB


def test_export_and_checkpoint_give_what_verify_takes(process: ServerProcess, tmp_path: Path) -> None:
    verifier = run("audit", "checkpoint", "--verifier-key", env=process.env).stdout.strip()
    file, kept = tmp_path / "export.ndjson", tmp_path / "kept.note"
    assert run("audit", "checkpoint", "--output", str(kept), env=process.env).returncode == 0
    exported = run("audit", "export", "--output", str(file), env=process.env)
    assert (exported.returncode, exported.stderr) == (0, "")
    assert file.stat().st_mode & 0o077 == 0
    good = run("audit", "verify", str(file), "--checkpoint", str(kept), "--key", verifier)
    assert (good.returncode, good.stderr) == (0, "")
    again = run("audit", "export", "--output", str(file), env=process.env)
    assert again.returncode == 1
    assert "exists" in again.stderr
    (tmp_path / "second.ndjson.partial").symlink_to(tmp_path / "elsewhere")
    assert run("audit", "export", "--output", str(tmp_path / "second.ndjson"), env=process.env).returncode == 0
    assert not (tmp_path / "elsewhere").exists(), "who may write to the folder has no say in what is overwritten"
    refused = run("audit", "export", "--from-date", "yesterday", env=process.env)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "VALIDATION_ERROR" in refused.stderr


@pytest.mark.slow
def test_tail_follows_live(process: ServerProcess) -> None:
    shown = run("audit", "tail", "-n", "3", env=process.env)
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) == 3
    arguments = [COMMAND, "audit", "tail", "--follow", "-n", "0", "--json"]
    with subprocess.Popen(arguments, env=environment(process.env), stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        time.sleep(2)
        created = json.loads(run("agents", "create", "followed@acme.example", "--json", env=process.env).stdout)
        seen = []
        while not any(event["action"] == "agent.created" and event["targetId"] == created["agentId"] for event in seen):
            seen.append(json.loads(following.stdout.readline()))
        assert len({event["eventId"] for event in seen}) == len(seen)
        following.terminate()
