# receiver.py: takes deliveries on port 8000, refuses what does not verify, and prints each event once
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["WEBHOOK_SECRET"])
seen = set()  # yours is a unique column, written in the transaction of what you do about the event


class Receiver(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self):
        try:
            length = int(self.headers.get("content-length", ""))
            body = self.rfile.read(length) if 0 < length < 1_000_000 else b""  # the bytes as they came: the signature is of these
            event = webhook.verify(body, dict(self.headers))
        except (WebhookVerificationError, ValueError):  # the second where a header or the body is not even text
            return self.answer(400)
        if event["id"] not in seen:  # the header `webhook-id` is the same
            seen.add(event["id"])
            print(event["data"]["seq"], event["type"], event["data"]["targetId"], flush=True)
        return self.answer(204)  # at once: what takes long is for later

    def answer(self, status):
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Receiver).serve_forever()
