"""The ledger: every query is charged in one SQLite file before it is answered.

Entries form a hash chain. Privacy accounts and the cache of noisy answers are in the same file.
"""

from fedkd.client.ledger.answer_cache import AnswerCache, PrivacyCost
from fedkd.client.ledger.dataset_privacy_spending import DatasetPrivacySpending, DpTraining
from fedkd.client.ledger.hash_chain import Entry, Head, LedgerTotals, verified_chain
from fedkd.client.ledger.journal import Journal
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.ledger.privacy_accountant import PrivacyAccountant, privacy_cost

__all__ = [
    "AnswerCache",
    "DatasetPrivacySpending",
    "DpTraining",
    "Entry",
    "Head",
    "Journal",
    "Ledger",
    "LedgerTotals",
    "PrivacyAccountant",
    "PrivacyCost",
    "privacy_cost",
    "verified_chain",
]
