"""Who is calling, and is it really that agent: keys, tokens, scopes, the guard."""
