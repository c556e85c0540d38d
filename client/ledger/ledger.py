"""The owner's books: what was asked, and what is charged for it, in one file. Knows no teacher.

Every question is one transaction: what was charged before is looked up, the policy decides, and a
row is appended to the journal, which is the only place where charges stand. So several agents of
one owner can share the file, and none of them answers what is not charged. A charge is never taken
back, whatever becomes of the answer.

A question is charged once, for ever: what was answered before tells nobody anything new when it is
answered again, as long as the same teacher answers without noise and all servers count as one
listener. It is then logged as a repeat. Where answers have noise, an image that comes again gets
the answer that is kept here, whatever question it comes in: it is paid for, and new noise would
tell more. Who is killed between the charge and the answer has paid for nothing, and pays again.

A private training is charged before it begins, under a key that its teacher keeps: a teacher that
is found again is free, and one that is trained anew is paid for, whatever became of the other.

What is written: times, servers, names of signals and modes, counts, digests, and noisy answers as
they were told; no pixel, no exact answer, no path.
"""

import hashlib
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedkd.client.ledger.answer_cache import Paid, Price
from fedkd.client.ledger.dataset_accounts import DataSets, Training
from fedkd.client.ledger.hash_chain import (
    ANSWERED,
    EXAMINATION,
    REFUSED,
    REPEAT,
    TRAINING,
    Entry,
    Spent,
    entry_of,
    written,
)
from fedkd.client.ledger.journal import Journal
from fedkd.errors import DataError
from fedkd.privacy.release_policy import Policy, overspent
from fedkd.protocol.signals import Ask, PullBack, Reason, Refusal, digest

log = logging.getLogger(__name__)

UNCOUNTED = Refusal(Reason.FAILED, "the institution could not enter this question in its books")
HOUR = timedelta(hours=1)
CHARGED = f"SELECT 1 FROM entries WHERE digest = ? AND decision = '{ANSWERED}'"
SINCE = f"SELECT SUM(cost) FROM entries WHERE time > ? AND decision = '{ANSWERED}'"
EXAMINED = f"SELECT COUNT(*) FROM entries WHERE kind = '{EXAMINATION}' AND decision = '{ANSWERED}'"
TOTALS = "SELECT kind, decision, SUM(cost), COUNT(*) FROM entries GROUP BY kind, decision"


class Ledger(Journal):
    """Books that outlive the process. Threads may share one; every process opens its own.

    Args:
        path: of the file, made readable to its owner alone; None keeps books in memory.
        durable: a charge is on the disk before the answer leaves, see `Journal`.
        clock: the time, with a zone.

    Raises:
        DataError: the file cannot be opened or written, is no ledger, or does not hold together.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        durable: bool = True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(path, durable=durable)
        self._clock = clock
        self.paid = Paid(self._db, self._using)
        self.data_sets = DataSets(self._db, self._using)

    def charge(
        self,
        request: Ask | PullBack,
        policy: Policy,
        server: str = "",
        teacher: bytes = b"",
        price: Price | None = None,
        data_set: str = "",
    ) -> Refusal | None:
        """Decide, charge and log a question; to be called before it is answered.

        Args:
            request: well formed.
            policy: the owner's word.
            server: host:port that asks, "" in simulations.
            teacher: up to 64 bytes that tell teachers apart. What one has answered is no repeat
                when another is asked.
            price: in privacy; None where answers cost none.
            data_set: that the answer tells of, as `DataSets.enrol` named it.

        Returns:
            None: it is charged, or was before, and may be answered. Else why not; books that
            cannot be written refuse everything.
        """
        content = hashlib.blake2b(digest(request), key=teacher, digest_size=16).hexdigest()
        try:
            with self._transaction():
                now, last = self._clock(), self._last()
                question = entry_of(request, server, now, content, data_set, policy.mode)
                refusal = policy.objection(request, server, now.astimezone().time())
                repeat = self._charged(content)
                if refusal is None and not repeat:
                    # Sums are only taken where somebody wants to know.
                    used = 0 if policy.samples_per_hour is None else self._since(now - HOUR)
                    refusal = policy.excess(question.count, last.after, used)
                if refusal is None and price is not None:
                    spent = self.data_sets.within(data_set)
                    due, cap = self.paid.due(price), price.limit(spent)
                    question = replace(question, micro_rho=due)
                    if due > (left := max(0, cap - spent.micro_rho)):
                        refusal = overspent(question.count, due, left, cap)
                if refusal is not None:
                    self._append(last.following(question, REFUSED, refusal.reason.value))
                else:
                    self._append(last.following(question, REPEAT if repeat else ANSWERED))
        except (sqlite3.Error, DataError) as error:
            return self._uncounted(error)
        return refusal

    def train(self, training: Training, data_set: str, policy: Policy) -> bool:
        """Decide, charge and log a private training; to be called before it begins.

        Args:
            training: known by its key: one that was charged before is free.
            data_set: that it is trained on.
            policy: the owner's word; without a budget in it nothing is refused.

        Returns:
            Whether it may begin, or its teacher be served.

        Raises:
            DataError: the books cannot be written.
        """
        with self._using():
            if self._charged(training.key):
                return True
            promise = (training.epsilon, training.delta)
            row = Entry(written(self._clock()), "", TRAINING, "", 0, training.key)
            row = replace(
                row, epsilon=promise[0], delta=promise[1], data_set=data_set, mode=policy.mode
            )
            spent = self.data_sets.within(data_set).after(*promise)
            allowed = policy.budget is None or policy.budget.covers(spent)
            decision = (ANSWERED, "") if allowed else (REFUSED, Reason.SPENT.value)
            self._append(self._last().following(row, *decision))
        return allowed

    def examine(self, student: str, policy: Policy) -> Refusal | None:
        """Decide, count and log that a student is examined; to be called before it is.

        Who was examined before learns nothing new by it: that is a repeat, and free.

        Args:
            student: digest of the student and of whoever examines it.
            policy: the owner's word.

        Returns:
            None: it may be. Else why not; books that cannot be written refuse everything.
        """
        try:
            with self._transaction():
                now, last = self._clock(), self._last()
                row = Entry(written(now), "", EXAMINATION, "", 0, student, mode=policy.mode)
                if self._charged(student):
                    self._append(last.following(row, REPEAT))
                    return None
                refusal = policy.overexamined(self._db.execute(EXAMINED).fetchone()[0])
                if refusal is not None:
                    self._append(last.following(row, REFUSED, refusal.reason.value))
                else:
                    self._append(last.following(row, ANSWERED))
        except (sqlite3.Error, DataError) as error:
            return self._uncounted(error)
        return refusal

    def refuse(self, request: Ask | PullBack, refusal: Refusal, server: str = "") -> Refusal:
        """Log a question that is refused for another reason than the policy's; charges nothing."""
        try:
            with self._transaction():
                question = entry_of(request, server, self._clock(), "")
                self._append(self._last().following(question, REFUSED, refusal.reason.value))
        except (sqlite3.Error, DataError) as error:
            return self._uncounted(error)
        return refusal

    @property
    def spent(self) -> Spent:
        """What has been charged and refused so far.

        Raises:
            DataError: the books cannot be read.
        """
        rows = self._read(TOTALS)
        charged = {kind: cost for kind, decision, cost, _ in rows if decision == ANSWERED}
        refused = sum(n for kind, said, _, n in rows if said == REFUSED and kind != TRAINING)
        examined = sum(n for kind, said, _, n in rows if (kind, said) == (EXAMINATION, ANSWERED))
        return Spent(charged.get("ask", 0), charged.get("pull_back", 0), refused, examined)

    def _charged(self, content: str) -> bool:
        return self._db.execute(CHARGED, (content,)).fetchone() is not None

    def _since(self, then: datetime) -> int:
        return self._db.execute(SINCE, (written(then),)).fetchone()[0] or 0

    def _uncounted(self, error: Exception) -> Refusal:
        """Nothing is answered that cannot be charged; why is for the owner alone."""
        log.error("%s: %s; nothing is answered", self._name, error)
        return UNCOUNTED
