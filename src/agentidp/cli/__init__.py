"""The `agentidp` command: a verb per file, each loaded when it runs, so that `agentidp --help` answers at once.

Exit codes: 0 done, 1 refused or failed, 2 wrong settings or wrong usage.
"""

import os
import sys

from cyclopts import App, CycloptsError

from agentidp import __version__

app = App(
    name="agentidp",
    version=__version__,
    help="An identity provider whose principals are AI agents. Settings come from AGENTIDP_… variables or a TOML file (--config).",
    help_epilogue="Start here: `agentidp serve`, then copy the curl command that it prints.",
    exit_on_error=False,
    print_error=True,
)


def _help(text: str, *examples: str) -> str:
    """Help that is known without loading the command."""
    return "\n".join((text, "", "For example:", "", *(f"    {example}" for example in examples)))


app.command(
    "agentidp.cli.serve:serve",
    name="serve",
    help=_help(
        "Start the server; on an empty data folder, set everything up first.",
        "agentidp serve",
        "AGENTIDP_PORT=8080 agentidp serve",
        "AGENTIDP_DATABASE_URL=postgresql://agentidp:secret@127.0.0.1/agentidp agentidp serve --workers 2",
    ),
)
app.command(
    "agentidp.cli.worker:worker",
    name="worker",
    help=_help("Keep house in a process of its own, beside servers on PostgreSQL.", "agentidp worker"),
)
app.command("agentidp.cli.init:init", name="init", help=_help("Set everything up without serving.", "agentidp init", "agentidp init --json"))
app.command(
    "agentidp.cli.token:token",
    name="token",
    help=_help(
        "Get an access token from a running server.",
        "agentidp token",
        'agentidp token --scope "agents:read audit:read"',
        'curl -H "Authorization: Bearer $(agentidp token)" http://127.0.0.1:3000/agent-info',
    ),
)
app.command("agentidp.cli.agents:app", name="agents", help="List and register agents on a running server.")
app.command("agentidp.cli.orgs:app", name="orgs", help="Organizations of a running server, for its operator.")
app.command("agentidp.cli.audit:app", name="audit", help="The audit trail: follow it, export it, verify an export.")
app.command("agentidp.cli.events:app", name="events", help="What happens in an organization, as it happens.")
app.command("agentidp.cli.keys:app", name="keys", help="Signing keys: list, rotate, retire; the master key: make one, rotate.")
app.command("agentidp.cli.db:app", name="db", help="Database: upgrade, check, backup, restore, copy.")
app.command(
    "agentidp.cli.routes:routes",
    name="routes",
    help=_help("Print METHOD PATH file:line scope of every operation.", "agentidp routes", "agentidp routes credentials"),
)
app.command("agentidp.cli.openapi:openapi", name="openapi", help=_help("Print the OpenAPI document.", "agentidp openapi > openapi.json"))
app.command(
    "agentidp.cli.completion:completion",
    name="completion",
    help=_help("Print a completion script for bash, zsh or fish.", "agentidp completion bash > ~/.local/share/bash-completion/completions/agentidp"),
)


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave the process with its exit code."""
    from agentidp.core.errors import Problem, WrongSettings

    try:
        app(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except CycloptsError:
        sys.exit(2)
    except WrongSettings as error:
        print(f"agentidp: {error}", file=sys.stderr)
        sys.exit(2)
    except Problem as problem:
        print(f"agentidp: {problem.detail}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:  # a folder that is not there, a file that may not be written
        print(f"agentidp: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
