"""Issuing, introspecting and revoking tokens."""
