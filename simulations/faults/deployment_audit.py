"""Audit of a whole deployment: the ledgers of all institutions against the journals of all runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedkd.client.config.owner_config import load_owner_config
from fedkd.client.institution import owner_institution
from fedkd.simulations.faults import ledger_audit
from fedkd.simulations.faults.deployment_files import LINGER, DeploymentFiles
from fedkd.simulations.faults.run_context import FaultyRunResult


@dataclass
class AuditFindings:
    """Findings of the ledger audit, over all runs."""

    lost_answers: list[str] = field(default_factory=list)
    double_charges: int = 0
    uncharged_answers: int = 0
    answers: int = 0
    ledger_rows: int = 0
    broken: list[str] = field(default_factory=list)


def audit_ledgers(files: DeploymentFiles, results: Sequence[FaultyRunResult]) -> AuditFindings:
    """Compare the ledgers of all institutions with the journals of all runs, in their order."""
    found = AuditFindings()
    journals = [ledger_audit.read_journal(result.out / "replies.bin") for result in results]
    for result in results:
        found.broken += result.broken
    for name in files.names:
        rows = ledger_audit.ledger_rows(files.ledger(name))
        found.double_charges += ledger_audit.double_charges(rows)
        found.ledger_rows += len(rows)
        if why := ledger_audit.chain_error(files.ledger(name)):
            found.broken.append(why)
        fingerprint = owner_institution(
            load_owner_config(files.institution_folder(name) / "owner.toml")
        ).teacher_fingerprint
        starts = [*(result.before[name] for result in results), len(rows)]
        for number, journal in enumerate(journals):
            run_rows = rows[starts[number] : starts[number + 1]]
            earlier = [entry for previous in journals[:number] for entry in previous]
            found.answers += sum(name in entry.answered for entry in journal)
            found.uncharged_answers += ledger_audit.uncharged_answers(
                name, fingerprint, rows, journal
            )
            other = results[number].other_queries
            found.uncharged_answers += ledger_audit.uncharged_answers(
                name, fingerprint, rows, [entry for entry in other if name in entry.answered]
            )
            if name in files.honest:
                found.lost_answers += [
                    f"run {results[number].out.name}: {line}"
                    for line in ledger_audit.lost_answers(
                        name, fingerprint, run_rows, journal, LINGER, [*earlier, *other]
                    )
                ]
    return found
