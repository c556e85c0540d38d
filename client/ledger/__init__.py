"""The privacy ledger: what was asked, what it cost, and proof that no entry was altered."""
