"""Owns the statements on workers and claims: who works on a study, until when that is believed, who does what.

A worker renews its lease before it is over; all times are the database's, whose clock is the only one they share. A
claim is a name that one worker holds: what several workers could do, only its holder does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from genopt.database import now
from genopt.tables import claims, workers

LEASE = 60.0  # seconds of silence after which a worker counts as dead, unless it said otherwise


@dataclass(frozen=True, slots=True)
class Spent:
    """What was paid for: generations by phase, tokens read and written, and calls that failed, or were called off with
    one that did: they made no generation, but the engine was asked."""

    search_generations: int = 0
    confirm_generations: int = 0
    tokens: int = 0
    failed: int = 0

    @property
    def generations(self) -> int:
        return self.search_generations + self.confirm_generations

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.search_generations + other.search_generations,
            self.confirm_generations + other.confirm_generations,
            self.tokens + other.tokens,
            self.failed + other.failed,
        )

    def __sub__(self, other: Spent) -> Spent:
        return self + Spent(-other.search_generations, -other.confirm_generations, -other.tokens, -other.failed)


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that works, or worked, on a study.

    `started` and `heartbeat` are seconds since the epoch and `age` the seconds since the heartbeat, all by the
    database's clock; `rate` is generations a second, lately.
    """

    id: str
    host: str
    process: str
    started: float = 0.0
    heartbeat: float = 0.0
    closed: bool = False
    age: float = 0.0
    lease: float = LEASE
    stage: str = ""
    rate: float = 0.0
    paid: Spent = field(default_factory=Spent)

    @property
    def span(self) -> tuple[float, float]:
        """From when to when it worked, as far as is known."""
        return self.started, self.heartbeat

    @property
    def beat(self) -> float:
        """Seconds between two signs of life."""
        return min(10.0, self.lease / 6)


class Leases:
    """The workers and claims in one database; use it from one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def join(self, worker: Worker, study_id: int) -> None:
        """Enter a worker, whose lease begins; once more is the same as once."""
        row = {"id": worker.id, "study_id": study_id, "host": worker.host, "process": worker.process}
        row |= {"stage": worker.stage, "lease": worker.lease, "rate": 0.0}
        row |= {"search_generations": 0, "confirm_generations": 0, "tokens": 0, "failed": 0}
        with self._engine.begin() as connection:
            if connection.scalar(sa.select(workers.c.id).where(workers.c.id == worker.id)) is None:
                connection.execute(sa.insert(workers).values(**row, started=now(), heartbeat=now(), closed=False))

    def beat(self, worker_id: str, *, stage: str | None = None, rate: float | None = None) -> bool:
        """Renew a lease; False when others took it for over meanwhile."""
        with self._engine.begin() as connection:
            return renew(connection, worker_id, Spent(), stage=stage, rate=rate)

    def rejoin(self, worker_id: str) -> None:
        """Begin a lease anew that others took for over."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(workers).where(workers.c.id == worker_id).values(heartbeat=now(), closed=False)
            )

    def end(self, worker_id: str) -> None:
        """End a lease, the worker's own or a dead one's, with every claim that was held under it."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(claims).where(claims.c.worker == worker_id))
            closed: dict[str, Any] = {"closed": True, "rate": 0.0}
            connection.execute(sa.update(workers).where(workers.c.id == worker_id).values(closed))

    def workers(self, study_id: int) -> list[Worker]:
        """Every worker the study ever had, the first ones first."""
        query = sa.select(workers, (now() - workers.c.heartbeat).label("age")).where(workers.c.study_id == study_id)
        with self._engine.connect() as connection:
            found = connection.execute(query.order_by(workers.c.started, workers.c.id)).all()
        return [
            Worker(
                *(w.id, w.host, w.process, w.started, w.heartbeat, bool(w.closed)),
                age=float(w.age),
                lease=w.lease,
                stage=w.stage,
                rate=w.rate,
                paid=Spent(w.search_generations, w.confirm_generations, w.tokens, w.failed),
            )
            for w in found
        ]

    def claim(self, study_id: int, worker_id: str, names: Sequence[str]) -> dict[str, str]:
        """Claim what nobody holds; who holds each of the names now. A name that its holder gave back in between is
        missing."""
        if not names:
            return {}
        rows = [{"study_id": study_id, "name": name, "worker": worker_id} for name in sorted(names)]
        with self._engine.begin() as connection:
            insert(connection, claims, rows)
            query = sa.select(claims.c.name, claims.c.worker)
            held = connection.execute(query.where(claims.c.study_id == study_id, claims.c.name.in_(list(names))))
            return {name: worker for name, worker in held}

    def held(self, study_id: int, names: Sequence[str]) -> set[str]:
        """Which of the names somebody holds."""
        query = sa.select(claims.c.name).where(claims.c.study_id == study_id, claims.c.name.in_(list(names)))
        with self._engine.connect() as connection:
            return set(connection.scalars(query))

    def release(self, study_id: int, worker_id: str, names: Iterable[str]) -> None:
        """Give claims back."""
        c = claims.c
        with self._engine.begin() as connection:
            mine = (c.study_id == study_id, c.worker == worker_id, c.name.in_(list(names)))
            connection.execute(sa.delete(claims).where(*mine))


def worked(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds in which anybody was at work: the length of all spans (from, to) together, what several share once."""
    total, reached = 0.0, -math.inf
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total


def renew(
    connection: sa.Connection, worker_id: str, paid: Spent, *, stage: str | None = None, rate: float | None = None
) -> bool:
    """Renew a lease, and add to what its worker has paid for, in an open transaction; False when others took the lease
    for over meanwhile: then only what was paid is noted."""
    c = workers.c
    added: dict[str, Any] = {
        "search_generations": c.search_generations + paid.search_generations,
        "confirm_generations": c.confirm_generations + paid.confirm_generations,
        "tokens": c.tokens + paid.tokens,
        "failed": c.failed + paid.failed,
    }
    said = {name: value for name, value in (("stage", stage), ("rate", rate)) if value is not None}
    renewed = sa.update(workers).where(c.id == worker_id, sa.not_(c.closed)).values(**added, **said, heartbeat=now())
    if connection.execute(renewed).rowcount:
        return True
    connection.execute(sa.update(workers).where(c.id == worker_id).values(added))
    return False


def insert(connection: sa.Connection, table: sa.Table, values: Sequence[Any]) -> None:
    """Insert rows, in an open transaction; one that exists already is left as it is."""
    if not values:
        return
    if connection.dialect.name in ("sqlite", "postgresql"):
        dialect = __import__(f"sqlalchemy.dialects.{connection.dialect.name}", fromlist=["insert"])
        statement = dialect.insert(table).on_conflict_do_nothing()
    else:  # not INSERT IGNORE, which would also cut what is too long, and say nothing
        from sqlalchemy.dialects.mysql import insert as into

        key = next(iter(table.primary_key))
        statement = into(table).on_duplicate_key_update({key.name: key})
    connection.execute(statement, list(values))
