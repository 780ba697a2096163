"""Runs the commands that a document shows, in their order, in one shell, and holds what they print against what the document says.

A block fenced as `sh` is run; a `text` block right after it is its output, where `…` stands for anything. A `python` block whose
first line names a file is written to that file. Blocks fenced as `shell` are for the reader only.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tests.architecture.source import ROOT
from tests.fakes.fake_stripe import FakeStripe
from tests.processes import ServerProcess, environment, serving

_FENCE = re.compile(r"^```(sh|text|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "\x1e"
_SECONDS_MAX = 120


@dataclass(frozen=True, slots=True)
class Step:
    """Commands with the line where they stand, and what they should print (None: not said)."""

    line: int
    commands: str
    shown: str | None = None


Prepare = Callable[[ServerProcess], dict[str, str]]


def follow(document: str, folder: Path, stripe: FakeStripe | None = None, settings: Mapping[str, str] | None = None, prepare: Prepare = lambda _: {}) -> None:
    """Serve an empty instance in the folder, one that sells its plans if there is a Stripe, and do there what the document says.

    `prepare` gives the shell more variables. Raises AssertionError where it is not so.
    """
    if not shutil.which("curl"):
        print("skipped: the tour needs curl")
        pytest.skip("curl is missing")
    with serving(folder, **(_at(stripe) if stripe else {}), **(settings or {})) as server:
        text = (ROOT / document).read_text("utf-8").replace("http://127.0.0.1:3000", server.url)
        if stripe:
            text = text.replace("http://127.0.0.1:12111", stripe.url)
            stripe.on_change = partial(stripe.deliver, f"{server.url}/api/v1/billing/webhook")
        steps = read_steps(text, folder)
        script = "set -euo pipefail\n" + "".join(f"{step.commands}\nprintf '{_MARK}'\n" for step in steps)
        path = f"{Path(sys.executable).parent}:{environment(None)['PATH']}"
        answer = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=environment({"PATH": path} | prepare(server)),
            capture_output=True,
            text=True,
            timeout=_SECONDS_MAX,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    printed = answer.stdout.split(_MARK)
    for step, output in zip(steps, printed, strict=False):
        where = f"{document}:{step.line}\n{step.commands}\nprinted:\n{output}{answer.stderr}"
        assert step.shown is None or matches(step.shown, output), where
    assert answer.returncode == 0, f"{document}:{steps[len(printed) - 1].line} failed\n{answer.stderr}"


def _at(stripe: FakeStripe) -> dict[str, str]:
    """The settings that the fake prints when it is started by hand."""
    return {
        "STRIPE__API_KEY": min(stripe.api_keys),
        "STRIPE__API_BASE": stripe.url,
        "STRIPE__WEBHOOK_SECRET": stripe.webhook_secrets[0],
        "STRIPE__PRICES__PRO": "price_pro",
        "STRIPE__PRICES__ENTERPRISE": "price_enterprise",
    }


def read_steps(text: str, folder: Path) -> list[Step]:
    """The steps of a document. Files that it shows are written to the folder."""
    steps: list[Step] = []
    for fence in _FENCE.finditer(text):
        kind, body = fence.groups()
        line = text.count("\n", 0, fence.start()) + 1
        if kind == "sh":
            steps.append(Step(line, body))
        elif kind == "text":
            assert steps, f"line {line}: output without commands"
            assert steps[-1].shown is None, f"line {line}: a second output of the same commands"
            steps[-1] = Step(steps[-1].line, steps[-1].commands, body)
        elif name := re.match(r"# ([\w-]+\.py)\b", body):
            (folder / name[1]).write_text(body, "utf-8")
    assert steps, "a document without commands"
    return steps


def matches(shown: str, printed: str) -> bool:
    """Whether the output is what the document shows; white space at the ends does not count."""
    pattern = ".*?".join(re.escape(part) for part in shown.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None
