"""What an organization uses: the counters of the ledger, as those read them who limit or bill by them."""
