"""The `agentidp` command: a verb per file, each loaded when it runs, so that `agentidp --help` answers at once.

Exit codes: 0 done, 1 refused or failed, 2 wrong settings or wrong usage.
"""

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

app.command("agentidp.cli.serve:serve", name="serve", help="Start the server; on an empty data folder, set everything up first.")
app.command("agentidp.cli.init:init", name="init", help="Set everything up without serving.")
app.command("agentidp.cli.token:token", name="token", help="Get an access token from a running server.")
app.command("agentidp.cli.agents:app", name="agents", help="List and register agents on a running server.")
app.command("agentidp.cli.keys:app", name="keys", help="Signing keys: list, rotate, retire; make a master key.")
app.command("agentidp.cli.db:app", name="db", help="Database: upgrade, check, backup.")
app.command("agentidp.cli.routes:routes", name="routes", help="Print METHOD PATH file:line scope of every operation.")
app.command("agentidp.cli.openapi:openapi", name="openapi", help="Print the OpenAPI document.")
app.command("agentidp.cli.completion:completion", name="completion", help="Print a completion script for bash, zsh or fish.")


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave the process with its exit code."""
    from agentidp.core.errors import Problem, WrongSettings

    try:
        app(arguments)
    except CycloptsError:
        sys.exit(2)
    except WrongSettings as error:
        print(f"agentidp: {error}", file=sys.stderr)
        sys.exit(2)
    except Problem as problem:
        print(f"agentidp: {problem.detail}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
