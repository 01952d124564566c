"""What a study has cost is counted once, however many work on it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from genopt.events import Event, Progress
from genopt.leases import Spent, Worker, worked
from genopt.meter import Account, Meter
from genopt.plan import Plan
from genopt.progress import Ticker
from genopt.types import Generation


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0),
        ([(10, 40)], 30),
        ([(0, 7200)] * 8, 7200),
        ([(0, 100), (50, 120), (60, 70)], 120),
        ([(500, 600), (0, 100)], 200),
        ([(0, 100), (80, 60)], 100),
    ],
)
def test_hours_are_those_in_which_anybody_worked(spans: list[tuple[float, float]], seconds: float) -> None:
    """One alone, eight side by side, some that overlap, a pause between two, and a clock that was set back."""
    assert worked(spans) == seconds


def test_the_clock_of_a_study_goes_on_once_however_many_work() -> None:
    clock = {"here": 4400.0}
    account = Account(Meter(), "me", clock=lambda: clock["here"])
    clock["here"] = 5000.0

    def workers(*others: tuple[float, float]) -> list[Worker]:
        """This one, heard of four seconds ago, and others; the database's clock is an hour ahead of the one here."""
        me = Worker("me", "h", "p", started=8000.0, heartbeat=clock["here"] + 3596, age=4.0)
        return [me, *(Worker(f"w{n}", "h", "p", *span) for n, span in enumerate(others))]

    account.count(workers())
    assert account.elapsed() == 600
    account.count(workers((8000.0, 8590.0), (8100.0, 8600.0)))
    assert account.elapsed() == 600, "side by side with this one"
    account.count(workers((7000.0, 8590.0), (2000.0, 2300.0)))
    assert account.elapsed() == 600 + 1000 + 300, "before this one came, and days ago"
    clock["here"] += 60
    assert account.elapsed() == 1960
    account.count(workers((7000.0, 8655.0), (2000.0, 2300.0)))
    assert account.elapsed() == 1960


def test_what_others_paid_is_put_on_the_meter_once() -> None:
    meter = Meter(search_generations=5, tokens=50)
    account = Account(meter, "me")

    def workers(paid: Spent) -> list[Worker]:
        own = Spent(5, 0, 50)  # which the meter has already
        return [Worker("me", "h", "p", 0.0, 1.0, paid=own), Worker("other", "h", "p", 0.0, 1.0, paid=paid)]

    for paid in (Spent(10, 0, 100), Spent(10, 0, 100), Spent(12, 3, 130)):
        account.count(workers(paid))
    assert (meter.search_generations, meter.confirm_generations, meter.tokens) == (17, 3, 180)
    account.count(workers(Spent(12, 3, 130, failed=4)))
    assert (meter.failed, meter.made, meter.generations) == (4, 20, 24)
    assert meter.here == meter.tokens_here == 0


def test_calls_that_fail_are_no_progress() -> None:
    """A stage is as far as its texts are, however often the engine had to be asked for them."""
    meter, events = Meter(), list[Event]()
    plan = SimpleNamespace(trials=None, backend=None, spec=SimpleNamespace(budget=SimpleNamespace(hours=None)))
    ticker = Ticker(cast(Plan, plan), meter, events.append, best=lambda: None, known=(), elapsed=lambda: 0.0)
    meter.fail()
    ticker.enter("confirm", planned=10)
    for _ in range(9):
        meter.fail()
    meter.add(Generation("yes", "stop", 10, 1, 0.0), "confirm")
    ticker.tick()
    progress = events[-1]
    assert isinstance(progress, Progress) and (progress.generations, progress.fraction) == (1, 0.1)
