"""The durable record of what was issued and done. Alone writes the tables it appends to.

What is decided on a cached snapshot is appended as an entry; everything that waits is re-validated, counted and recorded in one
transaction, and nobody is answered before it is durable. See docs/decisions and `entries`.
"""
