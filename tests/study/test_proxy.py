"""Optuna's tables behind a gRPC proxy: the study as without it, absences that are waited out, no other database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("grpc", reason="needs grpcio")

from genopt.database import Away, passing
from genopt.errors import StudyError
from genopt.space import Number, SearchSpace
from genopt.study import open_study
from genopt.study.proxy import open_proxy, serve

SPACE = SearchSpace({"a": Number(0.0, 1.0), "b": Number(1, 9, integer=True)})


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'a.db'}"


@pytest.fixture
def address(url: str) -> Iterator[str]:
    server, port = serve(url, "127.0.0.1", 0)
    yield f"127.0.0.1:{port}"
    server.stop(grace=None).wait()


def test_a_study_is_the_same_through_a_proxy(url: str, address: str) -> None:
    near = open_study(url, "s", SPACE, sampler="random", worker="near", proxy=address)
    far = open_study(url, "s", SPACE, sampler="random", worker="direct")
    try:
        for study, value in ((near, 0.25), (far, 0.5)):
            asked = study.ask(str)
            assert asked is not None
            study.report(asked, 4, value)
            assert study.tell(asked, [value], outcome={"n": 4}, violations={"long": 0.5})
            assert not study.tell(asked, [0.9], outcome={}), "it is told once"
        left = near.ask(str)
        assert left is not None
        far.release(left.number, "its worker is gone; asked again")
        again = far.ask(str)
        assert again is not None and again.params == left.params and again.proposal == left.proposal
        near.set_attribute("x", {"y": [1, None]})
        assert far.attribute("x") == {"y": [1, None]}
        assert near.trials() == far.trials()
        assert [(each.state, each.worker, each.values) for each in near.trials()] == [
            ("complete", "near", (0.25,)),
            ("complete", "direct", (0.5,)),
            ("failed", "near", None),
            ("running", "direct", None),
        ]
        attributes = [trial.system_attrs for trial in near._frozen()]
        assert attributes == [trial.system_attrs for trial in far._frozen()] and attributes[0], "constraints too"
    finally:
        near.close()
        far.close()


def test_an_absence_is_one_that_is_waited_out(url: str) -> None:
    server, port = serve(url, "127.0.0.1", 0)
    storage = open_proxy(f"127.0.0.1:{port}", url, deadline=5.0)
    storage.get_all_studies()
    server.stop(grace=None).wait()
    with pytest.raises(Away, match=f"proxy at 127.0.0.1:{port}") as away:
        storage.get_all_studies()
    assert passing(away.value)
    again, _ = serve(url, "127.0.0.1", port)
    while True:  # the first calls may still find it away; the test's own timeout ends this
        try:
            assert storage.get_all_studies() == []
            break
        except Away:
            continue
    again.stop(grace=None).wait()
    storage.close()  # type: ignore[attr-defined]


def test_a_database_that_is_away_is_told_as_that_and_its_address_is_not(
    url: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy as sa
    from optuna.storages import RDBStorage

    def gone(*_: object) -> None:
        raise sa.exc.OperationalError("SELECT 1", {}, Exception("postgresql://me:geheim@host is down"))

    storage = open_proxy(address, url)
    monkeypatch.setattr(RDBStorage, "get_all_studies", gone)
    with pytest.raises(Away, match="the proxy's database is away") as away:
        storage.get_all_studies()
    assert "geheim" not in str(away.value)
    storage.close()  # type: ignore[attr-defined]


def test_a_proxy_of_another_database_is_refused(address: str, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'b.db'}"
    open_study(other, "s", SPACE).close()  # a study of the same name and number
    with pytest.raises(StudyError, match=f"storage_proxy: {address} leads to another database than .*b.db"):
        open_study(other, "s", SPACE, proxy=address)


def test_a_port_that_is_taken_is_refused(url: str, address: str) -> None:
    with pytest.raises(StudyError, match="cannot be listened on"):
        serve(url, "127.0.0.1", int(address.rpartition(":")[2]))
