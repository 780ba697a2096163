"""The durable record of what was issued and done. Alone writes the tables it appends to."""
