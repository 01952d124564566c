"""Owns the version of genopt's tables in a database: made new, held against this genopt's, brought up to date.

The version is a row of genopt_meta: Optuna's tables beside them have their own, which this never touches. A version
that changes the tables adds a step to STEPS, which Alembic's operations carry out on every kind of database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.engine import Engine

from genopt.connections import engine_options, tune
from genopt.database import (
    made_together,
    masked,
    now,
    reason,
    refusal,
    with_driver,
)
from genopt.errors import StudyError
from genopt.leases import LEASE, insert
from genopt.tables import SCHEMA_VERSION, claims, generations, meta, metadata, workers


def create(engine: Engine) -> None:
    """Make the tables where they are missing. Raises StudyError for those of an older or newer genopt, as `check`."""

    def make() -> int | None:
        with engine.begin() as connection:
            found = version(connection)
            if found is None:
                metadata.create_all(connection)
                insert(connection, meta, [{"key": "schema", "value": str(SCHEMA_VERSION)}])
            return found

    refuse(made_together(make), engine)


def check(engine: Engine) -> None:
    """Raise StudyError for tables of an older or newer genopt, saying what to do; none at all are fine."""
    with engine.connect() as connection:
        found = version(connection)
    refuse(found, engine)


def refuse(found: int | None, engine: Engine) -> None:
    """Raise StudyError unless `found` is this genopt's version, or there is none yet."""
    where = masked(engine.url)
    if found is not None and found > SCHEMA_VERSION:
        raise StudyError(
            f"storage: {where} was written by a newer genopt (schema {found}, this one has {SCHEMA_VERSION})",
            hint="upgrade genopt: pip install --upgrade genopt",
        )
    if found is not None and found < SCHEMA_VERSION:
        what = f"storage: {where} was written by an older genopt (schema {found}, this one has {SCHEMA_VERSION})"
        if all(step in STEPS for step in range(found + 1, SCHEMA_VERSION + 1)):
            raise StudyError(what, hint=f"end its workers, then bring it up to date: genopt studies upgrade {where}")
        raise StudyError(what, hint="go on in a new storage: --set storage=...")


def version(connection: sa.Connection) -> int | None:
    """The version of the tables; None when there are none."""
    if not sa.inspect(connection).has_table(meta.name):
        return None
    found = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "schema"))
    return None if found is None else int(found)


def upgrade(url: str) -> tuple[int, int]:
    """Bring a database up to date, in one transaction where it knows such; the versions before and after.

    Raises StudyError when there is nothing of genopt's, when a worker is at work, for a version that is newer or too
    old, and when the database says no.
    """
    try:
        engine = sa.create_engine(with_driver(url), **engine_options(with_driver(url)))
    except (sa.exc.ArgumentError, ModuleNotFoundError, ValueError) as error:
        raise StudyError(f"storage: {masked(url)} cannot be used ({refusal(error)})") from None
    tune(engine)
    try:
        with engine.begin() as connection:
            found = version(connection)
            if found is None:
                raise StudyError(f"storage: {masked(url)} holds nothing of genopt's", hint="check the URL")
            if found == SCHEMA_VERSION:
                return found, found
            if found > SCHEMA_VERSION or found + 1 not in STEPS:
                refuse(found, engine)
            _refuse_at_work(connection, url)
            operations = Operations(MigrationContext.configure(connection))
            for step in range(found + 1, SCHEMA_VERSION + 1):
                STEPS[step](operations, connection)
            updated = sa.update(meta).where(meta.c.key == "schema").values(value=str(SCHEMA_VERSION))
            connection.execute(updated)
        return found, SCHEMA_VERSION
    except sa.exc.SQLAlchemyError as error:
        raise StudyError(f"storage: {masked(url)} cannot be brought up to date ({reason(error)})") from None
    finally:
        engine.dispose()


def _refuse_at_work(connection: sa.Connection, url: str) -> None:
    """Raise StudyError while an older genopt works there: it would write what the new tables do not expect."""
    c = workers.c
    beating = sa.select(c.host).where(sa.not_(c.closed), c.heartbeat > now() - LEASE).limit(1)
    host = connection.scalar(beating)
    if host is not None:
        raise StudyError(
            f"storage: a worker on {host} is at work in {masked(url)}",
            hint=f"end it (Ctrl-C), or wait {LEASE:.0f} s if it was killed",
        )


def _plain(column: sa.Column[Any]) -> sa.Column[Any]:
    """A column of no table yet, as it is to be added to one."""
    return sa.Column(column.name, column.type, nullable=column.nullable, server_default=column.server_default)


def _leases_and_claims(operations: Operations, connection: sa.Connection) -> None:
    """Version 3: what each worker paid for, says and promises; claims."""
    for name in ("lease", "stage", "rate", "search_generations", "confirm_generations", "tokens"):
        operations.add_column(workers.name, _plain(workers.c[name]))
    claims.create(connection)
    for study, paid in _paid(connection).items():
        first = sa.select(workers.c.id).where(workers.c.study_id == study).order_by(workers.c.started).limit(1)
        worker = connection.scalar(first)
        if worker is None:
            row = {"id": f"upgraded {study}", "study_id": study, "host": "", "process": "", "closed": True}
            insert(connection, workers, [row | {"started": 0.0, "heartbeat": 0.0, "lease": LEASE} | paid])
        else:
            connection.execute(sa.update(workers).where(workers.c.id == worker).values(paid))


def _harvesting(operations: Operations, connection: sa.Connection) -> None:
    """Version 4: which generations may be cuts of each other, their tokens, and which was made of which."""
    for name in ("kin", "tokens", "harvested_from"):
        operations.add_column(generations.name, _plain(generations.c[name]))
    operations.create_index("genopt_generations_kin", generations.name, ["study_id", "kin"])


def _failed_calls(operations: Operations, connection: sa.Connection) -> None:
    """Version 5: how many calls of the engine failed; of those before, nothing is known."""
    operations.add_column(workers.name, _plain(workers.c.failed))


def _paid(connection: sa.Connection) -> dict[int, dict[str, int]]:
    """What each study has paid for: its generations without those that it took over from another as a fork."""
    c = generations.c
    tokens = sa.func.sum(c.prompt_tokens + c.completion_tokens)
    query = sa.select(c.study_id, c.phase, sa.func.count(), tokens).group_by(c.study_id, c.phase)
    found: dict[int, dict[str, int]] = {}
    for study, phase, count, total in connection.execute(query):
        paid = found.setdefault(study, {"search_generations": 0, "confirm_generations": 0, "tokens": 0})
        paid["search_generations" if phase == "tune" else "confirm_generations"] += int(count)
        paid["tokens"] += int(total or 0)
    attributes = sa.table("study_user_attributes", sa.column("study_id"), sa.column("key"), sa.column("value_json"))
    taken = sa.select(attributes.c.study_id, attributes.c.value_json)
    for study, value in connection.execute(taken.where(attributes.c.key == "genopt:taken_over")):
        for name, count in json.loads(value).items():
            if study in found and name in found[study]:
                found[study][name] -= count
    return found


Step = Callable[[Operations, sa.Connection], None]
STEPS: Mapping[int, Step] = {3: _leases_and_claims, 4: _harvesting, 5: _failed_calls}
"""What makes each version of the one before it."""
