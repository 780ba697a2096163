"""What is committed names no path of the machine that it was written on and no host that packages were loaded from."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.architecture.source import ROOT


def committed() -> dict[str, str]:
    """The text files of the repository as they would be committed."""
    try:
        answer = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        print("skipped: this is not a git working copy")
        pytest.skip("not a git working copy")
    found = {}
    for name in answer.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file() and b"\0" not in (raw := path.read_bytes()):
            found[name] = raw.decode("utf-8", errors="replace")
    return found


def package_hosts() -> set[str]:
    """The hosts in pip's settings, from its files and from the environment, and those that it has built in."""
    built_in = "from pip._internal.models.index import PyPI; print(PyPI.netloc, PyPI.file_storage_domain)"
    own = subprocess.run([sys.executable, "-c", built_in], capture_output=True, text=True, check=True).stdout.split()
    assert len(own) == 2
    settings = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    settings += "\n".join(value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_")))
    return set(re.findall(r"https?://(?:[^/\s'\"@]*@)?([A-Za-z0-9.-]+)", settings)) | set(own)


def test_nothing_committed_names_this_machine() -> None:
    places = [re.escape(text) for text in (str(ROOT), str(Path.home())) if len(text) > 3]
    hosts = [re.escape(host) for host in package_hosts()]
    pattern = re.compile(rf"(?<![\w.-])(?:{'|'.join(places + hosts)})(?![\w-])")
    found = [f"{name}: {match[0]}" for name, text in committed().items() for match in [pattern.search(text)] if match]
    assert not found


def test_lock_files_hold_hashes_and_no_addresses() -> None:
    for name, text in committed().items():
        if name.startswith("requirements/"):
            assert "://" not in text, name
            assert "--index-url" not in text, name
        if name.endswith("package-lock.json"):
            assert '"resolved"' not in text, name
