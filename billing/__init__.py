"""Money and nothing else: wallets, holds, the ledger and prices."""
