"""What holds for every test: where all real parts are said to be installed, a real test that skips has failed."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

ALL_REAL = "GENOPT_REAL"
"""Set to 1 where every real part is installed: then a skip means that a test did not do its work."""


@pytest.fixture(scope="session", autouse=True)
def _migrations_are_read_once() -> Iterator[None]:
    """Optuna reads its migration scripts anew for each storage, several times for a new one: a tenth of a second of
    every study here. They are those of the installed version, whichever the storage is."""
    from optuna.storages._rdb.storage import _VersionManager

    read, found = _VersionManager._create_alembic_script, []

    def once(self: _VersionManager) -> object:
        if not found:
            found.append(read(self))
        return found[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "_create_alembic_script", once)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and _all_real() and item.get_closest_marker("real") and not _does_not_apply(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped although {ALL_REAL} is 1: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file that skips itself never shows its marks, so there every such file counts as real."""
    report = yield
    if report.skipped and _all_real():
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped although {ALL_REAL} is 1: {_reason(report.longrepr)}"
    return report


def _does_not_apply(longrepr: object) -> bool:
    """True where a contract says that it asks nothing of this engine: no part is missing."""
    said = _reason(longrepr).removeprefix("Skipped: ")
    return said.startswith(("the engine has no ", "the model has no ", "not promised here: "))


def _all_real() -> bool:
    return os.environ.get(ALL_REAL) == "1"


def _reason(longrepr: object) -> str:
    """A skip is reported as (file, line, reason)."""
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
