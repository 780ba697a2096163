"""`agentidp completion`"""

from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a completion script.

    Examples
    --------
    agentidp completion bash > ~/.local/share/bash-completion/completions/agentidp
    """
    from agentidp.cli import app

    print(app.generate_completion(shell=shell))
