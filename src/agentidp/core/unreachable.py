"""Why there was no answer from another server. Beside `core.outgoing`, which says what to do about it, because its parts raise it too."""

from typing import Literal

Kind = Literal["busy", "dns", "connect", "tls", "timeout", "closed", "protocol"]


class Unreachable(Exception):
    """No answer, or not a whole one. `busy`: this process had no turn for it, and nothing was sent. The text is for people, and nothing in it is the other side's."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind
