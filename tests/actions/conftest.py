"""A job of GitHub Actions, as far as our actions see one: a fake GitHub that gives it tokens, the environment of its runner, and a log in which secrets are masked.

A `Runner` runs actions against whatever its inputs name; a `Job` is one against a running server.

What runs is what `action.yml` names, in the shell that it names. Inputs and outputs go the way that docs.github.com/actions/sharing-automations describes.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.architecture.source import ROOT
from tests.conftest import fresh_postgres_database
from tests.fakes.fake_issuers import DISCOVERY, FakeGitHub, serving_issuer
from tests.policies.conftest import Trust
from tests.serving import RunningServer, settings_for
from tests.tenants import Tenant

ACTIONS = ROOT / "actions"
BEARER = "the-runners-own-token"
_EXPRESSION = re.compile(r"\$\{\{ *([^}]*?) *\}\}")
_SECONDS_MAX = 60


class FakeActions(FakeGitHub):
    """GitHub with the address at which a job asks for its token. `first` are answers that come before that: (status, headers, body)."""

    def __init__(self) -> None:
        super().__init__()
        self.first: list[tuple[int, dict[str, str], bytes]] = []
        self.given: list[str] = []

    def reply(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if not path.startswith("/request?"):
            return super().reply(path)
        if self.authorizations[-1] != f"Bearer {BEARER}":
            return 401, {}, b"{}"
        if self.first:
            return self.first.pop(0)
        status, headers, body = super().reply(path)
        self.given.append(json.loads(body)["value"])
        return status, headers, body


@dataclass
class Outcome:
    """What a step left. `shown` is the log as people see it: without commands to mask, and with everything masked from then on."""

    status: int
    log: str
    outputs: dict[str, str]
    variables: dict[str, str]
    masked: list[str] = field(default_factory=list)
    shown: str = ""

    def __post_init__(self) -> None:
        lines = []
        for line in self.log.splitlines():
            if line.startswith("::add-mask::"):
                self.masked.append(line.removeprefix("::add-mask::"))
                continue
            for secret in self.masked:
                line = line.replace(secret, "***")  # noqa: PLW2901 - as the runner does
            lines.append(line)
        self.shown = "\n".join(lines)

    @property
    def error(self) -> str:
        """The one error, as it is read."""
        assert self.status == 1, self.log
        (line,) = (line for line in self.shown.splitlines() if line.startswith("::error::"))
        return line.removeprefix("::error::").replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")


@dataclass
class Runner:
    """`variables` are the runner's; a job without the permission has none of `ACTIONS_ID_TOKEN_…`. `limits` are other values of the script's limits."""

    folder: Path
    inputs: dict[str, str]
    variables: dict[str, str] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)

    def permit(self, url: str) -> None:
        self.variables |= {"ACTIONS_ID_TOKEN_REQUEST_URL": f"{url}/request?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": BEARER}

    def checkout(self) -> Path:
        """Where the actions are: a copy when limits are others."""
        if not self.limits:
            return ACTIONS
        copy = shutil.copytree(ACTIONS, self.folder / "actions", dirs_exist_ok=True)
        text = (ACTIONS / "agentidp.py").read_text("utf-8")
        for name, value in self.limits.items():
            text, count = re.subn(rf"^{name} = [0-9]+", f"{name} = {value}", text, flags=re.MULTILINE)
            assert count == 1, name
        (copy / "agentidp.py").write_text(text, "utf-8")
        return copy

    def uses(self, action: str, **inputs: str) -> Outcome:
        """Run the action with these inputs beside its own; an underscore stands for a hyphen."""
        document = yaml.safe_load((ACTIONS / action / "action.yml").read_text("utf-8"))
        (step,) = document["runs"]["steps"]
        assert (document["runs"]["using"], step["shell"]) == ("composite", "bash")
        assert "${{" not in step["run"], "an expression in a script is code of whoever wrote the value"
        given = self.inputs | {name.replace("_", "-"): value for name, value in inputs.items()}
        values = {f"inputs.{name}": given.pop(name, "") for name in document["inputs"]}
        assert not given, "an input that the action does not have"
        files = {name: self.folder / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_ENV")}
        for path in files.values():
            path.write_text("")
        script = self.folder / "script.sh"
        script.write_text(step["run"])
        environment = {name: _EXPRESSION.sub(lambda match: values[match[1]], text) for name, text in step["env"].items()}
        environment |= {"PATH": os.environ["PATH"], "GITHUB_ACTION_PATH": str(self.checkout() / action)}
        environment |= {name: str(path) for name, path in files.items()} | self.variables
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)]
        answer = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=_SECONDS_MAX,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        left = _pairs(files["GITHUB_OUTPUT"])
        outputs = {name: left.get(_EXPRESSION.fullmatch(value["value"])[1].rpartition(".")[2], "") for name, value in document["outputs"].items()}  # type: ignore[index]
        assert all(f"steps.{step['id']}.outputs." in value["value"] for value in document["outputs"].values())
        assert set(left) <= set(outputs)
        return Outcome(answer.returncode, answer.stdout, outputs, _pairs(files["GITHUB_ENV"]))


@dataclass(kw_only=True)
class Job(Runner):
    """Against a running server, with GitHub's real signatures."""

    github: FakeActions
    trust: Trust

    @property
    def server(self) -> RunningServer:
        return self.trust.tenant.server


def _pairs(path: Path) -> dict[str, str]:
    """name=value by line; what is more than that would have to be written in another form."""
    return dict(line.split("=", 1) for line in path.read_text("utf-8").splitlines())


@pytest.fixture(scope="session")
def actions_github() -> Iterator[FakeActions]:
    with serving_issuer(FakeActions()) as running:
        assert isinstance(running, FakeActions)
        yield running


@pytest.fixture
def github(actions_github: FakeActions) -> FakeActions:
    actions_github.first.clear()
    actions_github.given.clear()
    actions_github.answers.clear()
    return actions_github


@pytest.fixture(scope="session")
def actions_servers() -> Iterator[dict[str, RunningServer]]:
    running: dict[str, RunningServer] = {}
    yield running
    for server in running.values():
        server.stop()


@pytest.fixture
def server(engine: str, actions_servers: dict[str, RunningServer], folder: Path, github: FakeActions, request: pytest.FixtureRequest) -> RunningServer:
    """One an engine that takes the fake for GitHub."""
    if engine not in actions_servers:
        url = fresh_postgres_database(request.getfixturevalue("postgres")).__enter__() if engine == "postgresql" else None  # it ends with its PostgreSQL
        trusting: dict[str, Any] = {"webhooks": {"allow_loopback": True}, "oidc": {"github_issuer": github.url}}
        actions_servers[engine] = RunningServer(settings_for(folder / f"actions-{engine}", url, **trusting))
    return actions_servers[engine]


@pytest.fixture
def job(tenant: Tenant, github: FakeActions, tmp_path: Path) -> Job:
    if not shutil.which("bash"):
        print("skipped: a composite action needs bash")
        pytest.skip("bash is missing")
    job = Job(tmp_path, {"issuer": tenant.server.url, "organization-id": tenant.organization_id}, github=github, trust=Trust(tenant))
    job.permit(github.url)
    return job


__all__ = ["BEARER", "DISCOVERY", "FakeActions", "Job", "Outcome", "Runner"]
