"""A database of schema 1 (tables of jobs and reports) becomes one of schema 2 (a log and a queue), by SQL alone.

What numbered the events becomes their ``seq``; the JSON of the columns goes into the bodies as it is; jobs that have
not ended go to the queue, free. Times were not kept and are NULL. States that were saved half-way are left behind.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from luthier.store.checkpoints import folder_name
from luthier.store.rows import JOB, REPORTS, RESULT
from luthier.store.schema import metadata, studies, version_table

_OLD = ("luthier_schema", "luthier_studies", "luthier_owners")

_EVENTS = """
INSERT INTO luthier_events (study, seq, kind, number, attempt, body, vectors)
SELECT study, created, {JOB}, number, 0,
  '{{"config":' || config || ',"steps":' || {text_steps}
  || CASE WHEN parent IS NULL THEN '' ELSE ',"parent":' || {text_parent} END
  || CASE WHEN tag IS NULL THEN '' ELSE ',"tag":' || tag END || '}}', config_vectors FROM luthier_jobs
"""
_RESULTS = """
INSERT INTO luthier_events (study, seq, kind, number, attempt, body, vectors)
SELECT study, done, {RESULT}, number, 1,
  '{{"status":"' || status || '","metrics":' || metrics || ',"steps":' || {text_steps_done} || ',"seconds":'
  || CASE WHEN seconds IS NULL {nan} THEN '{{"$float":"nan"}}' WHEN seconds > 1e308 THEN '{{"$float":"inf"}}'
     WHEN seconds < -1e308 THEN '{{"$float":"-inf"}}' ELSE {text_seconds} END
  || CASE WHEN final IS NULL THEN '' ELSE ',"final":' || final END
  || CASE WHEN error IS NULL THEN '' ELSE ',"error":' || error END
  || CASE WHEN checkpoint_file IS NULL THEN ''
     ELSE ',"checkpoint":[' || {quoted_file} || ',' || {text_row} || ']' END || '}}', final_vectors
FROM luthier_jobs WHERE done IS NOT NULL
"""
_REPORTS = """
INSERT INTO luthier_events (study, seq, kind, number, body, vectors, position)
SELECT study, event, {REPORTS}, CASE WHEN position IS NULL THEN NULL ELSE number END,
  '[[' || {text_number} || ',' || {text_step} || ',' || metrics
  || CASE WHEN hyperparameters IS NULL THEN '' ELSE ',' || hyperparameters END || ']]', vectors, position
FROM luthier_reports
"""
_QUEUE = """
INSERT INTO luthier_queue (study, number, event, attempts, not_before)
SELECT study, number, created, 0, 0 FROM luthier_jobs WHERE done IS NULL
"""


def one_to_two(connection: sa.Connection, checkpoints: str) -> None:
    """Migrate inside the transaction of ``connection``.

    Args:
        connection: The database.
        checkpoints: The folder in which the version before kept checkpoints: the store goes on there.
    """
    sqlite = connection.dialect.name == "sqlite"
    run = connection.exec_driver_sql
    for table in _OLD:
        run(f"ALTER TABLE {table} RENAME TO old_{table}")
    run("DROP INDEX ix_luthier_owners_study")
    if not sqlite:  # names that indexes and sequences keep when their table is renamed
        for table in _OLD[1:]:
            run(f"ALTER INDEX {table}_pkey RENAME TO old_{table}_pkey")
            run(f"ALTER SEQUENCE {table}_id_seq RENAME TO old_{table}_id_seq")
        run("ALTER INDEX luthier_studies_name_key RENAME TO old_luthier_studies_name_key")
    metadata.create_all(connection)
    connection.execute(version_table.insert().values(version=2, store=uuid.uuid4().hex, checkpoints=checkpoints))
    old = sa.table("old_luthier_studies", *(sa.column(name) for name in _STUDY))
    for row in connection.execute(sa.select(old).order_by(old.c.id)).mappings().all():
        name = folder_name(row["name"])
        connection.execute(studies.insert().values(uid=uuid.uuid4().hex, folder=name, **row))
    words = _WORDS["sqlite" if sqlite else "postgresql"]
    numbers = {
        f"text_{name}": words["text"].format(name) for name in ("steps", "parent", "steps_done", "number", "step")
    }
    for statement in (_EVENTS, _RESULTS, _REPORTS, _QUEUE):
        text = statement.format(
            JOB=JOB, RESULT=RESULT, REPORTS=REPORTS, text_row=words["text"].format("checkpoint_row"), **numbers, **words
        )
        run(text)
    for table in ("luthier_reports", "luthier_jobs", *(f"old_{table}" for table in reversed(_OLD))):
        run(f"DROP TABLE {table}")
    if not sqlite:
        run("SELECT setval(pg_get_serial_sequence('luthier_studies', 'id'), (SELECT coalesce(max(id), 0) + 1"
            " FROM luthier_studies), false)")  # fmt: skip


_STUDY = ("id", "name", "settings", "events", "jobs", "done", "best", "best_value", "created", "updated")
_WORDS = {
    "sqlite": {
        "text": "{}",
        "text_seconds": "printf('%!.17g', seconds)",
        "nan": "",
        "quoted_file": "json_quote(checkpoint_file)",
    },
    "postgresql": {
        "text": "CAST({} AS TEXT)",
        "text_seconds": "CAST(to_json(seconds) AS TEXT)",
        "nan": "OR seconds = 'NaN'",
        "quoted_file": "CAST(to_json(checkpoint_file) AS TEXT)",
    },
}
