"""A Vault that is none: the Transit engine's encrypt, decrypt, rewrap and rotate over real HTTP on a real port, with versions and Vault's own errors.

Written after the HTTP API documentation of Vault and OpenBao; it has not been held against either.
"""

import base64
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class FakeVault:
    """One Transit engine at `mount` with one key. What a test sets on it counts from the next request on."""

    def __init__(self, *, key: str = "agentidp", mount: str = "transit", token: str = "hvs.fake-token", namespace: str | None = None) -> None:
        self.key, self.mount, self.token, self.namespace = key, mount, token, namespace
        self.versions = [AESGCM(AESGCM.generate_key(256))]
        self.min_decryption_version = 1
        self.is_sealed = False
        self.answer: bytes | None = None  # instead of everything else: what no Vault would say
        self.drips = False  # the answer: a byte now and then
        self.requests: list[tuple[str, dict[str, Any]]] = []

    def rotate(self) -> None:
        """A new version of the key wraps from now on; the earlier ones still open."""
        self.versions.append(AESGCM(AESGCM.generate_key(256)))

    def reply(self, path: str, headers: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests.append((path, body))
        if self.is_sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if headers.get("X-Vault-Token") != self.token or headers.get("X-Vault-Namespace") != self.namespace:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        operation, _, key = path.removeprefix(f"/v1/{self.mount}/").partition("/")
        if not path.startswith(f"/v1/{self.mount}/"):
            return 404, {"errors": [f'no handler for route "{path}". route entry not found.']}
        if operation not in {"encrypt", "decrypt", "rewrap"} or key != self.key:
            return 400, {"errors": ["encryption key not found"]}
        if operation == "encrypt":
            return self._encrypt(base64.b64decode(body["plaintext"]))
        status, answer = self._decrypt(body["ciphertext"])
        if status != 200 or operation == "decrypt":
            return status, answer
        return self._encrypt(base64.b64decode(answer["data"]["plaintext"]))

    def _encrypt(self, value: bytes) -> tuple[int, dict[str, Any]]:
        version = len(self.versions)
        nonce = AESGCM.generate_key(128)[:12]
        box = base64.b64encode(nonce + self.versions[-1].encrypt(nonce, value, None)).decode()
        return 200, {"data": {"ciphertext": f"vault:v{version}:{box}", "key_version": version}}

    def _decrypt(self, ciphertext: str) -> tuple[int, dict[str, Any]]:
        _, version, box = ciphertext.split(":")
        number, raw = int(version[1:]), base64.b64decode(box)
        if number < self.min_decryption_version:
            return 400, {"errors": ["ciphertext or signature version is disallowed by policy (too old)"]}
        try:
            value = self.versions[number - 1].decrypt(raw[:12], raw[12:], None)
        except (InvalidTag, IndexError, ValueError):
            return 400, {"errors": ["cipher: message authentication failed"]}
        return 200, {"data": {"plaintext": base64.b64encode(value).decode()}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the usual 5, the next clients of a crowd wait a second to connect


@contextlib.contextmanager
def serving_vault(vault: FakeVault, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The fake on a port of its own; yields its address."""
    server = _Server(("127.0.0.1", 0), _handler(vault))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _handler(vault: FakeVault) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = vault.reply(self.path, self.headers, body)
            raw = vault.answer if vault.answer is not None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            with contextlib.suppress(OSError):  # a client that has seen enough
                if vault.drips:
                    for byte in raw:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.5)
                self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            """Tests read their own output."""

    return Handler
