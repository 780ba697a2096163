"""docs/reference is what the code says today, and says nothing about the machine that wrote it."""

import getpass
import json
import re
from pathlib import Path

import pytest
from tests import reference

from agentidp.core import limits

EXPECTED = reference.reference()
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", EXPECTED)
def test_is_current(name: str) -> None:
    path = reference.FOLDER / name
    assert path.is_file(), f"docs/reference/{name} is missing: run make docs"
    assert path.read_text("utf-8") == EXPECTED[name], f"docs/reference/{name} is not current: run make docs"


def test_holds_nothing_else() -> None:
    assert {path.name for path in reference.FOLDER.iterdir()} == EXPECTED.keys(), "run make docs, and remove what it does not write"


def test_is_the_same_each_time() -> None:
    assert reference.reference() == EXPECTED


@pytest.mark.parametrize("name", EXPECTED)
def test_names_no_path_of_this_machine(name: str) -> None:
    for place in (str(ROOT), str(Path.home()), f"/{getpass.getuser()}/"):
        assert place == "/" or place not in EXPECTED[name]
    assert not re.search(r"site-packages|/(home|Users|work|tmp|opt)/", EXPECTED[name])


def test_covers_every_setting_route_and_limit() -> None:
    """What must be in there, by another way of counting than the generator's."""
    configuration = re.findall(r"^## (AGENTIDP_[A-Z_]+)$", EXPECTED["configuration.md"], re.MULTILINE)
    assert {"AGENTIDP_ISSUER", "AGENTIDP_DATA_DIR", "AGENTIDP_TOKENS__LIFETIME_SECONDS", "AGENTIDP_CORS__ORIGINS"} <= set(configuration)
    assert len(configuration) == len(set(configuration))
    assert EXPECTED["configuration.md"].count("- Type: ") == EXPECTED["configuration.md"].count("- Default: ") == len(configuration)
    operations = sum(len(item) for item in json.loads(EXPECTED["openapi.json"])["paths"].values())
    assert EXPECTED["routes.md"].count("\n| `") == operations
    assert EXPECTED["limits.md"].count("\n| `") == len([name for name in vars(limits) if name.isupper()])
    for word in ("serve", "init", "token", "agents create", "keys rotate", "db backup"):
        assert f"\n## agentidp {word}\n" in EXPECTED["cli.md"]
    for code in ("VALIDATION_ERROR", "AGENT_NOT_FOUND", "CREDENTIAL_ALREADY_REVOKED", "AUDIT_EVENT_NOT_FOUND", "INVALID_DATE_RANGE"):
        assert f"`{code}`" in EXPECTED["errors.md"]
