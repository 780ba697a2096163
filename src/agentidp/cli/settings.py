"""The options that commands share."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Config = Annotated[Path | None, Parameter(env_var="AGENTIDP_CONFIG", help="TOML file with settings; the environment wins over it.")]
Json = Annotated[bool, Parameter(negative="", help="Print JSON, for scripts.")]
