"""Requests (Job), their outcomes (Report, Result), and the record of both (History).

May import: space.

Every package above speaks in these.
"""

from luthier.jobs.history import History
from luthier.jobs.records import (
    DIVERGED,
    ENQUEUED,
    FAILED,
    NOTE_KINDS,
    OK,
    PENDING,
    PRUNED,
    REPEATS,
    STATUS_CODES,
    Budget,
    Event,
    Foreign,
    Job,
    Lost,
    Note,
    Partial,
    Reason,
    Report,
    Result,
    Status,
    Succession,
    one_step,
)

__all__ = [
    "DIVERGED",
    "ENQUEUED",
    "FAILED",
    "NOTE_KINDS",
    "OK",
    "PENDING",
    "PRUNED",
    "REPEATS",
    "STATUS_CODES",
    "Budget",
    "Event",
    "Foreign",
    "History",
    "Job",
    "Lost",
    "Note",
    "Partial",
    "Reason",
    "Report",
    "Result",
    "Status",
    "Succession",
    "one_step",
]
