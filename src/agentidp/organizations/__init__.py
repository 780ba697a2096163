"""Tenants. Everything else belongs to exactly one of them."""
