"""Reading the history. Nothing here writes; see `ledger`."""
