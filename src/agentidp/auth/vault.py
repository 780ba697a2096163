"""A master key that never leaves Vault or OpenBao: their Transit engine wraps and opens the data keys (HTTP API, /v1/MOUNT/encrypt and /decrypt).

Called at start, by `keys rotate-master`, and when another process has made a data key; not for single secrets.
"""

import base64
import contextlib
import json
import ssl
import time
from typing import Any

import httpx2

from agentidp.auth.master_keys import WrappedKey
from agentidp.core import limits
from agentidp.core.config import VaultSettings
from agentidp.core.errors import WrongSettings
from agentidp.core.secrets import key_id_of


class VaultKey:
    """One key of a Transit engine, whatever its version. Raises WrongSettings when Vault is not reachable, refuses, or answers nonsense."""

    def __init__(self, settings: VaultSettings) -> None:
        if (settings.token is None) == (settings.token_file is None):
            raise WrongSettings("vault.token: set either the token or vault.token_file")
        self._settings = settings
        self.name = f"Vault key {settings.mount}/{settings.key}"
        try:
            self._tls = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:
            raise WrongSettings(f"vault.ca_file: {error}") from error

    def holds(self, master_key: str) -> bool:
        return master_key.rpartition(" ")[0] == self.name

    def wrap(self, key: str) -> WrappedKey:
        text = self._call("encrypt", "ciphertext", plaintext=base64.b64encode(key.encode()).decode())
        kind, _, rest = text.partition(":")
        version, _, box = rest.partition(":")
        if kind != "vault" or not box:
            raise WrongSettings("vault: the answer holds no ciphertext of the Transit engine")
        return WrappedKey(key_id_of(key), f"{self.name} {version}", text)

    def unwrap(self, wrapped: WrappedKey) -> str:
        try:
            return base64.b64decode(self._call("decrypt", "plaintext", ciphertext=wrapped.text), validate=True).decode("ascii")
        except ValueError as error:
            raise WrongSettings("vault: the answer holds no data key") from error

    def _call(self, operation: str, wanted: str, **body: str) -> str:
        """The field `wanted` of the answer's data."""
        settings = self._settings
        headers = {"X-Vault-Token": self._token()} | ({"X-Vault-Namespace": settings.namespace} if settings.namespace else {})
        url = f"{settings.address}/v1/{settings.mount}/{operation}/{settings.key}"
        try:
            status, raw = self._post(url, headers, body)
        except (httpx2.HTTPError, ValueError) as error:
            # only the network's errors are shown: that of a token which no header can carry has the token in its text
            reason = str(error) if isinstance(error, httpx2.NetworkError) else type(error).__name__
            raise WrongSettings(f"vault.address: no answer from {url}: {reason}") from None
        answer: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            answer = json.loads(raw)
        fields = answer if isinstance(answer, dict) else {}
        if status != httpx2.codes.OK:
            errors = fields.get("errors")
            said = "; ".join(map(str, errors))[: limits.VAULT_ERROR_CHARACTERS_MAX] if isinstance(errors, list) else ""
            printable = "".join(sign if sign.isprintable() else " " for sign in said)
            raise WrongSettings(f"vault: {url} answered {status}: {printable or 'no reason given'}")
        data = fields.get("data")
        found = data.get(wanted) if isinstance(data, dict) else None
        if not isinstance(found, str):
            raise WrongSettings(f"vault.address: what answers at {url} is not a Transit engine")
        return found

    def _post(self, url: str, headers: dict[str, str], body: dict[str, str]) -> tuple[int, bytes]:
        """Status and body, the body cut where it is longer than any honest one. Raises httpx2.ReadTimeout when it drips, too."""
        deadline = time.monotonic() + limits.VAULT_SECONDS_MAX
        client = httpx2.Client(verify=self._tls, timeout=limits.VAULT_SECONDS_MAX, trust_env=False, follow_redirects=False)
        with client, client.stream("POST", url, headers=headers, json=body) as response:
            raw = b""
            for part in response.iter_raw():
                raw += part
                if len(raw) > limits.VAULT_ANSWER_BYTES_MAX:
                    break
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("the answer drips")
            return response.status_code, raw[: limits.VAULT_ANSWER_BYTES_MAX]

    def _token(self) -> str:
        """Read anew each time: an agent beside the server renews the file."""
        if self._settings.token is not None:
            return self._settings.token.get_secret_value()
        assert self._settings.token_file is not None
        try:
            return self._settings.token_file.read_text("ascii").strip()
        except (OSError, UnicodeError) as error:
            raise WrongSettings(f"vault.token_file: {error}") from error
