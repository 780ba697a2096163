"""The generated half of the documentation: docs/reference, from the code. `make docs` writes it; test_reference.py says when that is due."""

import io
import json
import re
from collections.abc import Iterable
from ipaddress import IPv4Network
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import App
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from rich.console import Console

from agentidp.app import ROUTES
from agentidp.cli import app as command_line
from agentidp.cli.routes import route_rows
from agentidp.core import limits
from agentidp.core.config import PREFIX, Settings
from agentidp.core.errors import Problem
from agentidp.documents import build_openapi
from agentidp.policies.providers import PROVIDERS, VERIFIED, Provider

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
ISSUER = "http://127.0.0.1:3000"
HELP_WIDTH = 100
_NOTE = "<!-- Written by `make docs`; change the code instead. -->\n\n"


def main() -> None:
    """Write every file of the reference anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in reference().items():
        (FOLDER / name).write_text(text, "utf-8")


def reference() -> dict[str, str]:
    """File name and content of the whole reference."""
    return {
        "routes.md": routes(),
        "configuration.md": configuration(),
        "errors.md": errors(),
        "cli.md": cli(),
        "limits.md": bounds(),
        "claims.md": claims(),
        "openapi.json": json.dumps(json.loads(build_openapi(list(ROUTES), ISSUER)), indent=2, ensure_ascii=False) + "\n",
    }


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; bars inside the cells are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |\n" for line in lines)


def routes() -> str:
    """What `agentidp routes` prints, without the line numbers, which change too often."""
    rows = [[f"`{row['method']} {row['path']}`", f"`{row['scope']}`", row["operation"], f"`{row['source'].partition(':')[0]}`"] for row in route_rows()]
    text = f"# Routes\n\n{len(rows)} operations. `agentidp routes [WORD]` prints the same list with line numbers; [openapi.json](openapi.json) says everything.\n\n"
    return _NOTE + text + table(["Operation", "Scope", "operationId", "Source"], rows)


def configuration() -> str:
    """Every setting, those of sections included, in the order of the code."""
    text = (
        "# Configuration\n\nSettings are environment variables, or the same tree in a TOML file given with `--config`: `AGENTIDP_TOKENS__ALGORITHM=RS256` is\n"
        '`algorithm = "RS256"` under `[tokens]`. The environment wins. Lists are written as JSON. A wrong or unknown setting is refused at start.\n'
    )
    return _NOTE + text + "".join(_setting(name, field) for name, field in settings(Settings))


def settings(model: type[BaseModel], prefix: str = PREFIX) -> list[tuple[str, FieldInfo]]:
    """Environment variable and field of every setting below the model."""
    found: list[tuple[str, FieldInfo]] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += settings(field.annotation, f"{prefix}{name.upper()}__")
        else:
            found.append((prefix + name.upper(), field))
    return found


def _setting(name: str, field: FieldInfo) -> str:
    value = field.default
    default = "none" if value in {None, ""} else f"`{json.dumps(value) if isinstance(value, tuple) else value}`"
    facts = [f"Type: {_type(field.annotation)}{_bounds(field)}", f"Default: {default}"]
    facts += [f"Example: `{name}={example}`" for example in field.examples or ()]
    return f"\n## {name}\n\n{field.description}\n\n" + "".join(f"- {fact}\n" for fact in facts)


def _type(annotation: Any) -> str:
    """The type in words: `text`, `number`, the choices of a Literal."""
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) in {Union, UnionType}:
        return _type(next(option for option in get_args(annotation) if option is not NoneType))
    if get_origin(annotation) is tuple:
        return f"list of {_type(get_args(annotation)[0])}s"
    names = {str: "text", int: "number", bool: "`true` or `false`", Path: "path", SecretStr: "text (secret)", IPv4Network: "network"}
    return names[annotation]


def _bounds(field: FieldInfo) -> str:
    found = {name: getattr(item, name) for item in field.metadata for name in ("ge", "le") if hasattr(item, name)}
    return f", {found['ge']} to {found['le']}" if found.keys() == {"ge", "le"} else ""


def problems(kind: type[Problem] = Problem) -> list[type[Problem]]:
    """The kind and everything below it that the product defines."""
    ours = [child for child in kind.__subclasses__() if child.__module__.startswith("agentidp.")]
    return [kind, *(found for child in ours for found in problems(child))]


def errors() -> str:
    """Every refusal, by status."""
    found = {(str(problem.status), f"`{problem.code}`", f"`{problem.oauth_error}`", problem.title) for problem in problems()}
    text = (
        "# Errors\n\nThe body is `{code, message, details?}`; at `/api/v1/token` and below it is `{error, error_description}` (RFC 6749 section 5.2). Program\n"
        "against the status and the code; the message is for people and may say more than the meaning given here.\n\n"
    )
    return _NOTE + text + table(["Status", "Code", "OAuth error", "Meaning"], [list(row) for row in sorted(found)])


def cli() -> str:
    """The help of every command."""
    text = "# Command line\n\nExit codes: 0 done, 1 refused or failed, 2 wrong settings or wrong usage.\n"
    return _NOTE + text + "".join(f"\n## {' '.join(words)}\n\n```\n{help_of(words[1:])}\n```\n" for words in commands(command_line, ["agentidp"]))


def commands(parent: App, words: list[str]) -> list[list[str]]:
    """The words of every command, parents before children."""
    children = sorted(name for name in parent if not name.startswith("-"))
    return [words, *(found for name in children for found in commands(parent[name], [*words, name]))]


def help_of(words: list[str]) -> str:
    """What `agentidp WORDS --help` prints on a terminal of fixed width."""
    output = io.StringIO()
    console = Console(file=output, width=HELP_WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    command_line.help_print(words, console=console)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip("\n")


def bounds() -> str:
    """Every bound of core/limits.py with its value and its reason."""
    source = Path(limits.__file__).read_text("utf-8")
    rows = [
        [f"`{name}`", f"{getattr(limits, name):,}", reason or ""]
        for name, reason in re.findall(r"^([A-Z_0-9]+): Final = [^#\n]+(?:# (.*))?$", source, re.MULTILINE)
    ]
    return _NOTE + "# Limits\n\nBounds that are not settings; the last words of a name are its unit.\n\n" + table(["Name", "Value", "Reason"], rows)


def claims() -> str:
    """What trust policies know about each provider's tokens."""
    text = (
        "# Claims\n\nWhat the tokens of each provider must hold, and which of their claims a condition of a trust policy may name.\n\n"
        "- Conditions see text only. A claim that is a number, a boolean or a list is as good as absent, and so is one inside of an object. Only with kubernetes are those\n"
        "  inside of `kubernetes.io` seen, by their path: `kubernetes.io/pod/name`.\n"
        f"- {_names(VERIFIED)} are checked for every token, and no condition can be about them.\n"
        "- The token's header names its key as `kid`, and the issuer's key set has a key with that `kid`.\n"
    )
    return _NOTE + text + "".join(f"\n## {name}\n\n{table(['What', 'Claims'], _facts(provider))}" for name, provider in PROVIDERS.items())


def _facts(provider: Provider) -> list[list[str]]:
    """A row for each thing that is known about the provider."""
    trusted = [f"`repository`, which is the claim `{provider.repository}`"] if provider.repository else []
    trusted += [f"a condition on `{claim}`: `equals`, `in`" + (" or `prefix`" if claim == "sub" else "") for claim in sorted(provider.anchors)]
    branch = [
        f"`{claim}` is `{form.replace('{}', '<branch>')}`" + (", where the token has it" * (claim == provider.absent_on_branch))
        for claim, form in provider.branch
    ]
    partners = [f"one on `{claim}` needs one on `{partner}`, or `branch`, beside it" for claim, partner in (provider.partners or {}).items()]
    rows = {
        "Every token has, as text": _names({*provider.required, *(["jti"] if provider.has_token_id else [])}),
        "A condition may name": "any other claim that is text" if provider.known is None else _names(provider.known),
        "A policy must fix one of": "; ".join(trusted),
        "Recorded at first use of a `repository`": _names(provider.repository_ids or ()),
        "`branch` means": " and ".join(branch),
        "Conditions that need another": "; ".join(partners),
        "Prefixes that are everybody's, and refused": _names(provider.too_wide),
        f"Refused unless a condition on `{provider.event}` names it": _names(provider.events_to_name),
        f"Always refused as `{provider.event}`": _names(provider.events_refused),
        f"`{provider.workflow}` of another repository": "refused unless a condition names it" if provider.workflow else "",
    }
    return [[name, value] for name, value in rows.items() if value]


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


if __name__ == "__main__":
    main()
