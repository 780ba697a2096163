"""Programs for Node.js, installed from their lock file; where there is no Node.js or no registry, the test says so and is left out."""

import shutil
import subprocess
from pathlib import Path

import pytest

VERSION = 20
_UNREACHED = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ENOTCACHED")  # npm's words for no registry
_INSTALL = ("ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=30000")


def installed(source: Path, folder: Path) -> Path:
    """`folder`, with a copy of the program and what its lock file names."""
    what, node, npm = f"{source.parent.name}/{source.name}", shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip(f"{what} needs node and npm")
    version = run(["node", "--version"], Path()).removeprefix("v").strip()
    if int(version.split(".")[0]) < VERSION:
        pytest.skip(f"{what} needs node {VERSION} or later, this is {version}")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("node_modules", "*.js"))
    done = subprocess.run([npm, *_INSTALL], cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if reason := next((word for word in _UNREACHED if word in done.stderr), None):
        pytest.skip(f"{what} needs a package registry: {reason}")
    assert done.returncode == 0, done.stderr
    return folder


def run(command: list[str], folder: Path, given: str | None = None) -> str:
    """What it prints. An exit code but 0 is a failure that shows all of it."""
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
