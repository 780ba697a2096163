"""How fast the product is, against others and against its own ceiling; see docs/performance.md. `make bench` runs it."""
