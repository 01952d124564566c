"""Runs studies on the toy engine inside the test, and reads what they left in the database."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genopt.archive import Archive, load
from genopt.confirm import Verdict
from genopt.events import Event, Note, TrialDone, silence
from genopt.plan import Plan
from genopt.prepare import prepare
from genopt.runner import check_unchanged, optimize_async
from genopt.session import Session
from genopt.spec.read import make_study
from genopt.study import TrialRecord
from tests.toy import ToyBackend

TOY = {"kind": "tests.toy:ToyBackend", "model": "toy"}


def backend(**options: Any) -> dict[str, Any]:
    """The toy engine's table; `concurrency` is the study's, the rest are options."""
    concurrency = {"concurrency": options.pop("concurrency")} if "concurrency" in options else {}
    return {**TOY, **concurrency, "options": options}


@dataclass
class Ran:
    """A study that ended: its verdict or the error, every event, and what is stored."""

    folder: Path
    events: list[Event]
    verdict: Verdict | None = None
    error: BaseException | None = None
    archive: Archive = field(init=False)

    def __post_init__(self) -> None:
        self.archive = load(f"sqlite:///{self.folder / 'toy.db'}#toy")

    @property
    def trials(self) -> list[TrialRecord]:
        return list(self.archive.trials)

    def complete(self) -> list[TrialRecord]:
        """Finished trials that were measured (no duplicates)."""
        return [t for t in self.trials if t.state == "complete" and "duplicate_of" not in t.outcome]

    def told(self) -> list[TrialDone]:
        return [event for event in self.events if isinstance(event, TrialDone)]

    def notes(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Note))

    def decided(self) -> Verdict:
        assert self.error is None, self.error
        assert self.verdict is not None
        return self.verdict


def run(table: dict[str, Any], folder: Path, **options: Any) -> Ran:
    """The study run to its end, whatever that is."""
    events: list[Event] = []
    spec = make_study(table, folder=folder)
    listen = options.pop("on_event", silence)

    def hear(event: Event) -> None:
        events.append(event)
        listen(event)

    try:
        result = asyncio.run(optimize_async(spec, on_event=hear, **options))
    except Exception as error:
        return Ran(folder, events, error=error)
    return Ran(folder, events, result.verdict)


@asynccontextmanager
async def opened(table: dict[str, Any], folder: Path) -> AsyncIterator[tuple[Plan, Session, ToyBackend]]:
    """A session at work on the study, and its engine."""
    plan = await prepare(make_study(table, folder=folder))
    session = Session(plan, lambda _: None)
    try:
        await session.open()
        await check_unchanged(session)
        await session.start()
        assert isinstance(plan.backend, ToyBackend)
        yield plan, session, plan.backend
    finally:
        await session.close()
        await plan.aclose()


def query(folder: Path, sql: str, *values: Any, name: str = "toy.db") -> list[tuple[Any, ...]]:
    """Rows of the study's database."""
    with closing(sqlite3.connect(folder / name, timeout=60)) as connection:
        return connection.execute(sql, values).fetchall()


def generations(folder: Path) -> list[tuple[Any, ...]]:
    """(config_key, example_id, sample, phase, seed, text) of every stored generation, sorted."""
    return query(
        folder, "SELECT config_key, example_id, sample, phase, seed, text FROM genopt_generations ORDER BY 1, 2, 3, 4"
    )
