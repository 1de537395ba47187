"""Every statement that luthier sends to a database, built once; names and values are bound parameters.

In PostgreSQL transactions run at READ COMMITTED, so that a statement sees what was committed before it began: whoever
has waited for the study's row reads, in a statement of its own, all that was written before.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam as bind
from sqlalchemy.ext.compiler import compiles

from luthier.store.schema import clock, events, owners, queue, studies, version_table

STUDY, OWNER, NUMBER = bind("b_study"), bind("b_owner"), bind("b_number")
LEASE, NOW = bind("b_lease", type_=sa.Double), bind("b_now")


class among(sa.ColumnElement[bool]):
    """Test that a column is among the numbers of the parameter ``b_numbers``; see :func:`numbers`."""

    type = sa.Boolean()
    inherit_cache = False

    def __init__(self, column: sa.ColumnElement[Any]) -> None:
        self.column, self.values = column, bind("b_numbers", type_=sa.Text)


@compiles(among, "sqlite")
def _sqlite_among(element: among, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in (element.column, element.values))
    return f"{column} IN (SELECT value FROM json_each({values}))"


@compiles(among, "postgresql")
def _postgresql_among(element: among, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in (element.column, element.values))
    return f"{column} = ANY (CAST({values} AS BIGINT[]))"


def numbers(values: Any, sqlite: bool) -> str:
    """The parameter ``b_numbers`` of :class:`among`."""
    text = ",".join(str(int(value)) for value in values)
    return f"[{text}]" if sqlite else f"{{{text}}}"


# -- the store
store_row = sa.select(version_table.c.store, version_table.c.checkpoints)
set_checkpoints = sa.update(version_table).values(checkpoints=bind("b_checkpoints"))

# -- studies
find_study = sa.select(studies).where(studies.c.name == bind("b_name"))
study_names = sa.select(studies.c.name)
all_studies = sa.select(studies).order_by(studies.c.id)
add_study = sa.insert(studies).values(
    uid=bind("b_uid"),
    name=bind("b_name"),
    settings=bind("b_settings"),
    folder=bind("b_folder"),
    events=0,
    jobs=0,
    done=0,
    created=clock(),
    updated=clock(),
)
set_settings = (
    sa.update(studies).where(studies.c.name == bind("b_name")).values(settings=bind("b_settings"), updated=clock())
)
remove_study = sa.delete(studies).where(studies.c.id == STUDY)
remove_rows = [sa.delete(table).where(table.c.study == STUDY) for table in (events, queue, owners)]

# -- the row of a study: whoever holds it gives the events their order
_study_row = sa.select(
    studies.c.events,
    studies.c.jobs,
    studies.c.done,
    studies.c.best,
    studies.c.best_value,
    studies.c.turn_owner,
    studies.c.turn_until,
    clock().label("now"),
).where(studies.c.id == STUDY)
lock_study = _study_row.with_for_update(key_share=True)
lock_study_if_free = _study_row.with_for_update(key_share=True, skip_locked=True)
count_events = sa.select(
    studies.c.events,
    sa.exists(sa.select(events.c.id).where(events.c.study == STUDY, events.c.seq.is_(None))).label("more"),
).where(studies.c.id == STUDY)
set_study = (
    sa.update(studies)
    .where(studies.c.id == STUDY)
    .values(
        events=bind("b_events"),
        jobs=bind("b_jobs"),
        done=bind("b_done"),
        best=bind("b_best"),
        best_value=bind("b_best_value"),
        updated=NOW,
    )
)

# -- owners: the gate of each transaction, and leases
add_owner = (
    sa.insert(owners)
    .values(
        study=STUDY,
        label=bind("b_label"),
        host=bind("b_host"),
        pid=bind("b_pid"),
        started=bind("b_started"),
        until=clock() + LEASE,
        batch=0,
        wants=0,
        given=0,
    )
    .returning(owners.c.id)
)
# a row stays as long as its owner may come back; what is silent for a day and holds nothing would begin anew
forget_owners = sa.delete(owners).where(
    owners.c.study == STUDY,
    owners.c.until < clock() - 86400.0,
    owners.c.id.not_in(sa.select(queue.c.owner).where(queue.c.study == STUDY, queue.c.owner.is_not(None))),
)
gate = (
    sa.update(owners)
    .where(owners.c.id == OWNER, owners.c.batch == bind("b_batch") - 1)
    .values(until=clock() + LEASE, batch=bind("b_batch"), wants=0)
    .returning(owners.c.given, clock().label("now"))
)
last_batch = sa.select(owners.c.batch, owners.c.given).where(owners.c.id == OWNER)
renew_owner = sa.update(owners).where(owners.c.id == OWNER).values(until=clock() + LEASE)
wish = sa.update(owners).where(owners.c.id == OWNER).values(wants=bind("b_wants"))
waiting_owners = (
    sa.select(owners.c.id, owners.c.wants)
    .where(owners.c.study == STUDY, owners.c.wants > 0, owners.c.id != OWNER, owners.c.until > clock())
    .order_by(owners.c.id)
    .with_for_update(skip_locked=True)
)
serve_owner = sa.update(owners).where(owners.c.id == bind("b_served")).values(wants=0, given=owners.c.given + 1)

owner_rows = sa.select(
    owners.c.id, owners.c.host, owners.c.pid, owners.c.started, (owners.c.until < clock() - 86400.0).label("silent")
).where(owners.c.study == STUDY)

# -- the queue
put_jobs = sa.insert(queue).values(
    study=STUDY,
    number=NUMBER,
    event=bind("b_event"),
    owner=OWNER,
    attempts=bind("b_attempts"),
    not_before=0.0,
    claimed=NOW,
)
end_jobs = (
    sa.delete(queue)
    .where(queue.c.study == STUDY, among(queue.c.number))
    .returning(queue.c.number, queue.c.attempts, queue.c.partial)
)
queued_jobs = sa.select(queue.c.number).where(queue.c.study == STUDY, among(queue.c.number))


def _logged(column: sa.ColumnElement[Any]) -> sa.Label[Any]:
    """A column of the row of the log that a queued job is.

    Looked up for each job. Joined, PostgreSQL reads the whole log for each of them while it has no statistics of a new
    study yet: it takes one row for all that the study has, and the study's part of the index for as good as the place.
    """
    found = sa.select(column).where(events.c.study == queue.c.study, events.c.seq == queue.c.event)
    return found.scalar_subquery().label(column.name)


_queued = (
    *(queue.c.number, queue.c.event, queue.c.attempts, queue.c.partial, queue.c.event.label("seq")),
    *map(_logged, (events.c.at, events.c.kind, events.c.body, events.c.vectors)),
)
held_jobs = (  # each with the row of the log that it is, and how often others have put jobs aside for its owner
    sa.select(*_queued, owners.c.given)
    .join(owners, owners.c.id == queue.c.owner)
    .where(queue.c.study == STUDY, queue.c.owner == OWNER)
)
_free = (queue.c.study == STUDY, queue.c.owner.is_(None), queue.c.not_before <= clock())
any_free = sa.select(queue.c.number).where(*_free).limit(1)
_next = (
    sa.select(queue.c.number)
    .where(*_free)
    .order_by(queue.c.attempts > 1, queue.c.number)  # what has ended two processes comes last
    .limit(bind("b_count"))
    .with_for_update(skip_locked=True)
    .cte("c")
)
claim_jobs = (
    sa.update(queue)
    .where(queue.c.study == STUDY, queue.c.number.in_(sa.select(_next.c.number)))
    .values(owner=OWNER, attempts=queue.c.attempts + 1, claimed=clock())
    .returning(queue.c.number, queue.c.event, queue.c.attempts, queue.c.partial)
)
job_events = sa.select(*_queued).where(queue.c.study == STUDY, among(queue.c.number))
release_all = (
    sa.update(queue)
    .where(queue.c.study == STUDY, queue.c.owner == OWNER)
    .values(owner=None, attempts=queue.c.attempts - 1)
)
release_some = release_all.where(among(queue.c.number))
holders = (
    sa.select(
        queue.c.owner,
        owners.c.host,
        owners.c.pid,
        owners.c.started,
        owners.c.until,
        sa.func.coalesce(owners.c.until < clock(), sa.true()).label("expired"),
    )
    .select_from(queue.outerjoin(owners, queue.c.owner == owners.c.id))
    .where(queue.c.study == STUDY, queue.c.owner.is_not(None), queue.c.owner != OWNER)
    .distinct()
)
held_by = sa.select(queue.c.number, queue.c.owner).where(queue.c.study == STUDY, queue.c.owner.is_not(None))
_pause = bind("b_pause", type_=sa.Double)


def _freed(condition: sa.ColumnElement[bool]) -> Any:
    found = (
        sa.select(queue.c.number)
        .where(queue.c.study == STUDY, condition)
        .order_by(queue.c.number)
        .with_for_update(skip_locked=True)
        .cte("c")
    )
    later = sa.case((queue.c.attempts < 2, 0.0), else_=clock() + _pause * queue.c.attempts)
    return (
        sa.update(queue)
        .where(queue.c.study == STUDY, queue.c.number.in_(sa.select(found.c.number)))
        .values(owner=None, not_before=later)
        .returning(queue.c.number, queue.c.attempts)
    )


free_of_owners = _freed(among(queue.c.owner))
free_as_died = _freed(sa.and_(among(queue.c.number), queue.c.owner == OWNER))
set_partial = (
    sa.update(queue)
    .where(queue.c.study == STUDY, queue.c.number == NUMBER, queue.c.owner == OWNER)
    .values(
        partial=bind("b_file"),
        partial_steps=bind("b_steps", type_=sa.BigInteger),
        attempts=sa.case(
            (sa.func.coalesce(queue.c.partial_steps, 0) < bind("b_steps", type_=sa.BigInteger), 1),
            else_=queue.c.attempts,
        ),
    )
    .returning(queue.c.attempts)
)
named_partials = sa.select(queue.c.partial).where(queue.c.study == STUDY, queue.c.partial.is_not(None))

# -- the log
add_events = sa.insert(events).values(
    study=STUDY,
    seq=bind("b_seq"),
    kind=bind("b_kind"),
    number=NUMBER,
    owner=OWNER,
    attempt=bind("b_attempt"),
    at=NOW,
    body=bind("b_body"),
    vectors=bind("b_vectors"),
    position=bind("b_position"),
)
_unordered = (
    sa.select(events.c.id.label("nid"), sa.func.row_number().over(order_by=events.c.id).label("rank"))
    .where(events.c.study == STUDY, events.c.seq.is_(None))
    .subquery("n")
)
stamp_events = (
    sa.update(events)
    .where(events.c.id == _unordered.c.nid)
    .values(seq=bind("b_base", type_=sa.BigInteger) + _unordered.c.rank)
    .returning(events.c.seq, events.c.at, events.c.kind, events.c.number, events.c.body, events.c.vectors)
)
new_events = (
    sa.select(events.c.seq, events.c.at, events.c.kind, events.c.number, events.c.body, events.c.vectors)
    .where(events.c.study == STUDY, events.c.seq > bind("b_from"), events.c.seq <= bind("b_to"))
    .order_by(events.c.seq)
)
my_results = sa.select(events.c.number).where(
    events.c.study == STUDY, events.c.owner == OWNER, events.c.kind == 2, among(events.c.number)
)
job_places = (
    sa.select(events.c.number, sa.func.max(events.c.seq).label("event"))
    .where(events.c.study == STUDY, events.c.kind == 0, among(events.c.number))
    .group_by(events.c.number)
)
unordered_events = (
    sa.select(events.c.seq, events.c.at, events.c.kind, events.c.number, events.c.body, events.c.vectors)
    .where(events.c.study == STUDY, events.c.seq.is_(None))
    .order_by(events.c.id)
)
unordered_results = (
    sa.select(events.c.study, events.c.seq, events.c.kind, events.c.number, events.c.body, events.c.vectors)
    .where(events.c.seq.is_(None), events.c.kind == 2)
    .order_by(events.c.id)
)
results_of = (
    sa.select(events.c.seq, events.c.at, events.c.kind, events.c.number, events.c.body, events.c.vectors)
    .where(events.c.study == STUDY, events.c.kind == 2, among(events.c.number))
    .order_by(events.c.seq)
)
next_position = sa.select(sa.func.max(events.c.position).label("last")).where(
    events.c.study == STUDY, events.c.number == NUMBER, events.c.position.is_not(None)
)
thin_reports = (
    sa.update(events)
    .where(
        events.c.study == STUDY,
        events.c.number == NUMBER,
        events.c.position.is_not(None),
        events.c.position % bind("b_stride", type_=sa.BigInteger) != 0,
    )
    .values(vectors=None, position=None)
)

# -- leases on proposing and on removing files
turn_holder = (
    sa.select(
        studies.c.turn_owner,
        studies.c.turn_until,
        sa.func.coalesce(studies.c.turn_until < clock(), sa.true()).label("expired"),
        owners.c.host,
        owners.c.pid,
        owners.c.started,
    )
    .select_from(studies.outerjoin(owners, studies.c.turn_owner == owners.c.id))
    .where(studies.c.id == STUDY)
)
_SECONDS = bind("b_seconds", type_=sa.Double)
take_turn = sa.update(studies).where(studies.c.id == STUDY).values(turn_owner=OWNER, turn_until=clock() + _SECONDS)
end_turn = (
    sa.update(studies)
    .where(studies.c.id == STUDY, studies.c.turn_owner == OWNER)
    .values(turn_owner=None, turn_until=None)
)
take_janitor = (
    sa.update(studies)
    .where(
        studies.c.id == STUDY,
        sa.or_(studies.c.janitor.is_(None), studies.c.janitor == OWNER, studies.c.janitor_until < clock()),
    )
    .values(janitor=OWNER, janitor_until=clock() + _SECONDS)
)
