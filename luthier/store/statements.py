"""Every statement that luthier sends to a database, built once; names and values are bound parameters."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import bindparam as bind

from luthier.store.schema import clock, jobs, owners, reports, studies

STUDY, OWNER = bind("b_study"), bind("b_owner")
NUMBER = bind("b_number")

# -- studies
find_study = sa.select(studies).where(studies.c.name == bind("b_name"))
study_names = sa.select(studies.c.name)
all_studies = sa.select(studies).order_by(studies.c.id)
add_study = sa.insert(studies).values(
    name=bind("b_name"), settings=bind("b_settings"), events=0, jobs=0, done=0, created=clock(), updated=clock()
)
set_settings = (
    sa.update(studies).where(studies.c.name == bind("b_name")).values(settings=bind("b_settings"), updated=clock())
)
remove_study = sa.delete(studies).where(studies.c.id == STUDY)

# -- the row of a study: locked by each writer, so that events are numbered in the order in which they are committed
lock_study = (
    sa.select(
        studies.c.events,
        studies.c.jobs,
        studies.c.done,
        studies.c.best,
        studies.c.best_value,
        studies.c.turn_owner,
        studies.c.turn_until,
        clock().label("now"),
    )
    .where(studies.c.id == STUDY)
    .with_for_update()
)
count_events = sa.select(studies.c.events).where(studies.c.id == STUDY)
set_study = (
    sa.update(studies)
    .where(studies.c.id == STUDY)
    .values(
        events=bind("b_events"),
        jobs=bind("b_jobs"),
        done=bind("b_done"),
        best=bind("b_best"),
        best_value=bind("b_best_value"),
        updated=bind("b_now"),
    )
)

# -- owners and their leases
add_owner = (
    sa.insert(owners)
    .values(
        study=STUDY,
        owner=bind("b_label"),
        host=bind("b_host"),
        pid=bind("b_pid"),
        started=bind("b_started"),
        until=clock() + bind("b_lease", type_=sa.Double),
    )
    .returning(owners.c.id)
)
renew_owner = sa.update(owners).where(owners.c.id == OWNER).values(until=clock() + bind("b_lease", type_=sa.Double))

# -- jobs
add_jobs = sa.insert(jobs).values(
    study=STUDY,
    number=NUMBER,
    created=bind("b_event"),
    config=bind("b_config"),
    config_vectors=bind("b_vectors"),
    steps=bind("b_steps"),
    parent=bind("b_parent"),
    tag=bind("b_tag"),
    owner=OWNER,
)
held_jobs = sa.select(jobs.c.number, jobs.c.snapshots).where(
    jobs.c.study == STUDY, jobs.c.owner == OWNER, jobs.c.done.is_(None)
)
end_job = (
    sa.update(jobs)
    .where(jobs.c.study == STUDY, jobs.c.number == NUMBER)
    .values(
        done=bind("b_event"),
        status=bind("b_status"),
        metrics=bind("b_metrics"),
        steps_done=bind("b_steps"),
        final=bind("b_final"),
        final_vectors=bind("b_vectors"),
        seconds=bind("b_seconds"),
        error=bind("b_error"),
        checkpoint_file=bind("b_file"),
        checkpoint_row=bind("b_row"),
    )
)
unfinished_jobs = (
    sa.select(
        jobs.c.number,
        jobs.c.owner,
        owners.c.host,
        owners.c.pid,
        owners.c.started,
        sa.func.coalesce(owners.c.until < clock(), sa.true()).label("expired"),
    )
    .select_from(jobs.outerjoin(owners, jobs.c.owner == owners.c.id))
    .where(jobs.c.study == STUDY, jobs.c.done.is_(None))
    .order_by(jobs.c.number)
)
take_job = (
    sa.update(jobs).where(jobs.c.study == STUDY, jobs.c.number == NUMBER, jobs.c.done.is_(None)).values(owner=OWNER)
)
one_job = sa.select(jobs).where(jobs.c.study == STUDY, jobs.c.number == NUMBER)
release_all = (
    sa.update(jobs).where(jobs.c.study == STUDY, jobs.c.done.is_(None), jobs.c.owner == OWNER).values(owner=None)
)
release_one = release_all.where(jobs.c.number == NUMBER)

# -- reports
add_reports = sa.insert(reports).values(
    study=STUDY,
    event=bind("b_event"),
    number=NUMBER,
    step=bind("b_step"),
    metrics=bind("b_metrics"),
    hyperparameters=bind("b_hyperparameters"),
    vectors=bind("b_vectors"),
    position=bind("b_position"),
)
set_snapshots = (
    sa.update(jobs).where(jobs.c.study == STUDY, jobs.c.number == NUMBER).values(snapshots=bind("b_snapshots"))
)
thin_reports = (
    sa.update(reports)
    .where(
        reports.c.study == STUDY,
        reports.c.number == NUMBER,
        reports.c.position.is_not(None),
        reports.c.position % bind("b_stride", type_=sa.BigInteger) != 0,
    )
    .values(vectors=None, position=None)
)

# -- what is new since event b_from, up to b_to
new_jobs = (
    sa.select(
        jobs.c.created.label("event"),
        jobs.c.number,
        jobs.c.config,
        jobs.c.config_vectors,
        jobs.c.steps,
        jobs.c.parent,
        jobs.c.tag,
    )
    .where(jobs.c.study == STUDY, jobs.c.number >= NUMBER, jobs.c.created <= bind("b_to"))
    .order_by(jobs.c.number)
)
new_results = sa.select(
    jobs.c.done.label("event"),
    jobs.c.number,
    jobs.c.status,
    jobs.c.metrics,
    jobs.c.steps_done,
    jobs.c.final,
    jobs.c.final_vectors,
    jobs.c.seconds,
    jobs.c.error,
    jobs.c.checkpoint_file,
    jobs.c.checkpoint_row,
).where(jobs.c.study == STUDY, jobs.c.done > bind("b_from"), jobs.c.done <= bind("b_to"))
new_reports = sa.select(
    reports.c.event,
    reports.c.number,
    reports.c.step,
    reports.c.metrics,
    reports.c.hyperparameters,
    reports.c.vectors,
).where(reports.c.study == STUDY, reports.c.event > bind("b_from"), reports.c.event <= bind("b_to"))

# -- the lease on proposing
turn_holder = (
    sa.select(
        studies.c.turn_owner,
        sa.func.coalesce(studies.c.turn_until < clock(), sa.true()).label("expired"),
        owners.c.host,
        owners.c.pid,
        owners.c.started,
    )
    .select_from(studies.outerjoin(owners, studies.c.turn_owner == owners.c.id))
    .where(studies.c.id == STUDY)
)
take_turn = (
    sa.update(studies)
    .where(studies.c.id == STUDY)
    .values(turn_owner=OWNER, turn_until=clock() + bind("b_seconds", type_=sa.Double))
)
end_turn = (
    sa.update(studies)
    .where(studies.c.id == STUDY, studies.c.turn_owner == OWNER)
    .values(turn_owner=None, turn_until=None)
)
