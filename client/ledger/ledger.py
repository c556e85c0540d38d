"""The ledger: charge every query, evaluation and DP training once, before it is answered.

Every query is one transaction: earlier charges are looked up, the policy decides, and an entry
is appended to the journal, the only place where charges are stored. So several agents of one owner
can share the file, and none of them answers without a charge. A charge is never taken back, even
where the answer fails.

A query is charged once, for ever. The same answer again releases nothing new, as long as the
same teacher answers without noise and all servers count as one listener; it is logged as a repeat.
Where answers have noise, a sample that comes again gets its cached answer, in whatever query it
comes: new noise would release more. If the process is killed between the charge and the answer,
the charge stands, and the samples without a cached answer are charged again.

A training with differential privacy is charged before it begins, under a key that is stored with
its teacher. A cached teacher is free; one that is trained anew is charged.

Repeats and refusals cost nothing and are aggregated, see
`fedkd.client.ledger.repeat_and_refusal_aggregation`.

What is stored: times, servers, names of signals and modes, counts, digests, and noisy answers as
they were released. No pixel, no exact answer, no path.
"""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from fedkd.client.ledger.answer_cache import AnswerCache, PrivacyCost
from fedkd.client.ledger.dataset_privacy_spending import DatasetPrivacySpending, DpTraining
from fedkd.client.ledger.hash_chain import (
    ANSWERED,
    EXAMINATION,
    REFUSED,
    REPEAT,
    RESET,
    TRAINING,
    Entry,
    LedgerTotals,
    query_entry,
    timestamp,
)
from fedkd.client.ledger.hourly_rate import HourlyRate
from fedkd.client.ledger.journal import Journal
from fedkd.client.ledger.repeat_and_refusal_aggregation import UnchargedCounter
from fedkd.client.ledger.rollback_detection import LedgerAnchor, anchor_of
from fedkd.errors import DataError
from fedkd.privacy import Policy, budget_refusal
from fedkd.protocol import Ask, PullBack, Reason, Refusal, digest

log = logging.getLogger(__name__)

NOT_RECORDED = Refusal(Reason.FAILED, "the institution could not record this in its ledger")
CHARGED = f"SELECT 1 FROM entries WHERE digest = ? AND decision = '{ANSWERED}'"
EXAMINED = f"SELECT COUNT(*) FROM entries WHERE kind = '{EXAMINATION}' AND decision = '{ANSWERED}'"
TOTALS = "SELECT kind, decision, SUM(cost), SUM(queries) FROM entries GROUP BY kind, decision"


class Ledger(Journal):
    """A ledger that outlives the process. Threads may share one; every process opens its own.

    Args:
        path: of the file, made readable to its owner alone; None keeps the ledger in memory.
        durable: a charge is on the disk before the answer leaves, see `Journal`.
        anchor: how far the ledger got, see `fedkd.client.ledger.rollback_detection`; None: unknown.
        clock: the time, with a zone.
        monotonic: seconds of a clock that nobody sets.

    Raises:
        DataError: the file cannot be opened or written, is no ledger, or fails verification.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        durable: bool = True,
        anchor: LedgerAnchor | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uncharged = UnchargedCounter(monotonic)
        super().__init__(path, durable=durable, anchor=anchor)
        self._clock = clock
        self._hourly = HourlyRate(self._db, monotonic)
        self.answer_cache = AnswerCache(self._db, self._checked_transaction)
        self.dataset_accounts = DatasetPrivacySpending(self._db, self._checked_transaction)

    @classmethod
    def anchored(cls, path: Path) -> "Ledger":
        """An owner's ledger, with its anchor beside it: ``ledger.head`` for ``ledger.sqlite``.

        Raises:
            DataError: as the class, or it lacks what the anchor remembers.
        """
        return cls(path, anchor=anchor_of(path))

    def charge(
        self,
        request: Ask | PullBack,
        policy: Policy,
        server: str = "",
        teacher: bytes = b"",
        privacy_cost: PrivacyCost | None = None,
        data_set: str = "",
    ) -> Refusal | None:
        """Decide about a query, charge and log it; to be called before it is answered.

        Args:
            request: well formed.
            policy: the owner's.
            server: host:port that asks, "" in simulations.
            teacher: up to 64 bytes that identify the teacher. What another one has answered is no
                repeat.
            privacy_cost: of the answers; None where they cost no privacy.
            data_set: that the answers depend on, as `DatasetPrivacySpending.register` named it.

        Returns:
            None: it is charged, now or before, and may be answered. Else a refusal; a ledger that
            cannot be written refuses everything.
        """
        content = hashlib.blake2b(digest(request), key=teacher, digest_size=16).hexdigest()
        try:
            with self._transaction():
                now, last = self._clock(), self._last()
                query = query_entry(request, server, now, content, data_set, policy.mode)
                refusal = policy.refusal(request, server, now.astimezone().time())
                repeat = self._was_charged(content)
                if refusal is None and not repeat:
                    # The sum is only taken where the policy has a limit.
                    used = 0 if policy.samples_per_hour is None else self._hourly.samples(now)
                    refusal = policy.sample_cap_refusal(query.count, last.after, used)
                if refusal is None and privacy_cost is not None:
                    spent = self.dataset_accounts.spending_in_transaction(data_set)
                    due = self.answer_cache.cost_of(privacy_cost)
                    cap = privacy_cost.limit(spent)
                    query = replace(query, micro_rho=due)
                    if due > (left := max(0, cap - spent.micro_rho)):
                        refusal = budget_refusal(query.count, due, left, cap)
                if refusal is not None:
                    last = self._append_decision(query, REFUSED, refusal.reason.value)
                else:
                    last = self._append_decision(query, REPEAT if repeat else ANSWERED)
        except (sqlite3.Error, DataError) as error:
            return self._not_recorded(error)
        if refusal is None and not repeat:
            with self._lock:
                self._hourly.add(last)
        return refusal

    def policy_refusal(
        self, request: Ask | PullBack, policy: Policy, server: str = ""
    ) -> Refusal | None:
        """Why the policy refuses a query now, whatever was charged; None where it does not."""
        return policy.refusal(request, server, self._clock().astimezone().time())

    def suffices(
        self, count: int, policy: Policy, privacy_cost: PrivacyCost | None, data_set: str
    ) -> bool:
        """Whether what is left now would cover so many samples that were never answered.

        Nothing is charged: `charge` decides when the samples are known.

        Raises:
            DataError: the ledger cannot be read.
        """
        with self._checked_transaction():
            used = 0 if policy.samples_per_hour is None else self._hourly.samples(self._clock())
            if policy.sample_cap_refusal(count, self._last().after, used) is not None:
                return False
            if privacy_cost is None:
                return True
            spent = self.dataset_accounts.spending_in_transaction(data_set)
            left = privacy_cost.limit(spent) - spent.micro_rho
            return count * privacy_cost.per_answer <= left

    def charge_trainings(
        self, trainings: Sequence[DpTraining], data_set: str, policy: Policy
    ) -> bool:
        """Decide about DP trainings, charge and log them; to be called before they begin.

        Args:
            trainings: that a teacher comes from, all charged or none. One that was charged before
                is known by its key, and free.
            data_set: that they train on.
            policy: the owner's; without a budget in it nothing is refused.

        Returns:
            Whether they may begin, or their teacher be served.

        Raises:
            DataError: the ledger cannot be written.
        """
        with self._checked_transaction():
            new = [training for training in trainings if not self._was_charged(training.key)]
            if not new:
                return True
            spent = self.dataset_accounts.spending_in_transaction(data_set)
            for training in new:
                spent = spent.with_training(training.epsilon, training.delta)
            allowed = policy.budget is None or policy.budget.covers(spent)
            decision = (ANSWERED, "") if allowed else (REFUSED, Reason.SPENT.value)
            for training in new:
                row = Entry(timestamp(self._clock()), "", TRAINING, "", 0, training.key)
                row = replace(row, epsilon=training.epsilon, delta=training.delta)
                row = replace(row, data_set=data_set, mode=policy.mode)
                self._append_decision(row, *decision)
        return allowed

    def charge_evaluation(self, student: str, policy: Policy) -> Refusal | None:
        """Decide about a student's evaluation, count and log it; to be called before it is done.

        A second evaluation of the same student releases nothing new: it is a repeat, and free.

        Args:
            student: digest of the student and of the teacher of the institution that evaluates it.
            policy: the owner's.

        Returns:
            None: it may be done. Else a refusal; a ledger that cannot be written refuses
            everything.
        """
        try:
            with self._transaction():
                row = Entry(
                    timestamp(self._clock()), "", EXAMINATION, "", 0, student, mode=policy.mode
                )
                if self._was_charged(student):
                    self._append_decision(row, REPEAT)
                    return None
                refusal = policy.examination_cap_refusal(self._db.execute(EXAMINED).fetchone()[0])
                if refusal is not None:
                    self._append_decision(row, REFUSED, refusal.reason.value)
                else:
                    self._append_decision(row, ANSWERED)
        except (sqlite3.Error, DataError) as error:
            return self._not_recorded(error)
        return refusal

    def record_refusal(
        self, request: Ask | PullBack, refusal: Refusal, server: str = ""
    ) -> Refusal:
        """Log a refusal for another reason than the policy's; nothing is charged."""
        try:
            with self._transaction():
                query = query_entry(request, server, self._clock(), "")
                self._append_decision(query, REFUSED, refusal.reason.value)
        except (sqlite3.Error, DataError) as error:
            return self._not_recorded(error)
        return refusal

    def record_reset(self, fault: str) -> None:
        """Log that the owner goes on without charges that were made.

        Args:
            fault: what is missing, for whoever reads the ledger later.

        Raises:
            DataError: the ledger cannot be written.
        """
        with self._checked_transaction():
            row = Entry(timestamp(self._clock()), "", RESET, "", 0, "")
            self._append(self._last().successor(row, REFUSED, fault))

    @property
    def totals(self) -> LedgerTotals:
        """What has been charged and refused so far.

        Raises:
            DataError: the ledger cannot be read.
        """
        self._flush()
        rows = self._read(TOTALS)
        charged = {kind: cost for kind, decision, cost, _ in rows if decision == ANSWERED}
        refused = sum(
            n for kind, dec, _, n in rows if dec == REFUSED and kind not in (TRAINING, RESET)
        )
        examined = sum(n for kind, dec, _, n in rows if (kind, dec) == (EXAMINATION, ANSWERED))
        return LedgerTotals(charged.get("ask", 0), charged.get("pull_back", 0), refused, examined)

    def _append_decision(self, query: Entry, decision: str, reason: str = "") -> Entry:
        """Append a query with its decision, in a transaction; what is not charged may be counted.

        Returns:
            The last entry now.

        Raises:
            DataError: the ledger fails verification, so that nothing may be appended.
        """
        last = self._last()
        if decision == ANSWERED or (decision == REPEAT and query.micro_rho):
            rows = [*self._uncharged.take_due(), replace(query, decision=decision, reason=reason)]
        else:
            query = replace(query, decision=decision, reason=reason, micro_rho=0)
            rows = self._uncharged.add(query)
        for row in rows:
            last = last.successor(row, row.decision, row.reason)
            self._append(last)
        return last

    def _flush(self) -> None:
        """Write the uncharged queries that were only counted so far."""
        if self._uncharged.pending:
            with self._checked_transaction():
                last = self._last()
                for row in self._uncharged.take_due(everything=True):
                    last = last.successor(row, row.decision, row.reason)
                    self._append(last)

    def _was_charged(self, content: str) -> bool:
        return self._db.execute(CHARGED, (content,)).fetchone() is not None

    def _not_recorded(self, error: Exception) -> Refusal:
        """The refusal where nothing can be charged; the cause is for the owner's log alone."""
        log.error("%s: %s; nothing is answered", self._name, error)
        return NOT_RECORDED
