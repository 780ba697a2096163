"""Telling others what happens: webhooks, the dispatcher that sends to them, and the log of what was sent."""
