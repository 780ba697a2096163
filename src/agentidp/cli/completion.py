"""`agentidp completion`"""

from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a completion script."""
    from agentidp.cli import app

    print(app.generate_completion(shell=shell))
