"""Text and JSON of an owner's membership audit, for his own terminal."""

from dataclasses import asdict
from typing import Any

from fedkd.privacy.supervised_membership import LOW_FPR, MembershipAudit, MembershipFinding

CAVEAT = (
    "An audit proves violations only: where it finds nothing, a better attack may still find some. "
    "Nothing was sent or charged. These figures come from private samples: keep them."
)
"""Printed at the end."""


def format_membership_audit(audit: MembershipAudit, caveat: str = CAVEAT) -> str:
    """A table of all attacks, what the strongest means, and a last line."""
    count = int(audit.is_member.sum())
    rows = [_cells(each) for each in (*audit.findings, audit.control)]
    head = ("attacker reads", "attack", "AUC", f"TPR at {LOW_FPR:.0%} FPR", "AUC it adds")
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    left_out = (
        f"; {audit.left_out} others left out, since they are training samples too"
        if audit.left_out
        else ""
    )
    return "\n".join(
        [
            f"membership inference: {audit.subject}",
            f"{count} training samples against {count} others, as many of each class; 95% "
            f"intervals{left_out}",
            "a learned attack knows of one half who is a member, and is counted on the other",
            "",
            *lines,
            "",
            *_meaning(audit),
            caveat,
        ]
    )


def membership_audit_fields(audit: MembershipAudit) -> dict[str, Any]:
    """The figures, for JSON."""
    return {
        "subject": audit.subject,
        "members": int(audit.is_member.sum()),
        "others": int((~audit.is_member).sum()),
        "left_out": audit.left_out,
        "fpr": LOW_FPR,
        "attacks": [_fields(each) for each in audit.findings],
        "control": _fields(audit.control),
        "biased": audit.biased,
    }


def _meaning(audit: MembershipAudit) -> list[str]:
    best = audit.strongest
    said = (
        f"Of a training sample and another one, the strongest attack names the training sample in "
        f"{100 * best.auc.value:.0f} of 100 cases, where a guess does in 50. If it may accuse 1 of "
        f"100 others wrongly, it finds {100 * best.tpr.value:.1f} of 100 training samples, where a "
        "guess finds 1."
    )
    if not audit.biased:
        return [said]
    return [
        said,
        f"WARNING: training samples and others differ before anything is asked (AUC "
        f"{audit.control.auc}), so that the figures above are no evidence of leakage. Bring others "
        "of the same origin.",
    ]


def _cells(finding: MembershipFinding) -> tuple[str, ...]:
    added = "" if finding.added is None else str(finding.added)
    return (
        " + ".join(finding.reads),
        finding.attack,
        str(finding.auc),
        str(finding.tpr),
        added,
    )


def _fields(finding: MembershipFinding) -> dict[str, Any]:
    return {
        "reads": list(finding.reads),
        "attack": finding.attack,
        "auc": asdict(finding.auc),
        "tpr": asdict(finding.tpr),
        "auc_added": None if finding.added is None else asdict(finding.added),
    }
