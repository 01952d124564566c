"""The ray engine without Ray: who gets a request, what runs in an actor, what a study file may say."""

from __future__ import annotations

import asyncio
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genopt.backends import make_backend
from genopt.backends._ray_actor import EngineActor, answered, result
from genopt.backends._ray_cluster import CODE_LIMIT, code_of, options_of
from genopt.backends._ray_dispatch import MARGIN, Dispatch, Engine
from genopt.backends.ray import in_sum
from genopt.errors import BackendError, MissingExtra, SpecError
from genopt.prepare import prepare
from genopt.spec import BackendSpec
from genopt.spec.read import make_study
from genopt.types import Message, Request
from tests.toy import DEFAULTS, study

TOY = {"kind": "tests.toy:ToyBackend", "model": "toy"}
RAY = {"kind": "ray", "engine": TOY}


def dispatch(*places: int) -> Dispatch:
    made = Dispatch()
    for number, count in enumerate(places, 1):
        made.join(Engine(number, None, count))
    return made


class TestDispatch:
    def test_the_least_loaded_engine_gets_a_new_example(self) -> None:
        async def scenario() -> None:
            both = dispatch(4, 8)
            taken = [(await both.take(f"e{n}")).number for n in range(12)]
            assert taken.count(1) == 4 and taken.count(2) == 8  # in proportion to their places
            assert {e.running for e in both.engines.values()} == {4, 8}

        asyncio.run(scenario())

    def test_an_example_stays_with_its_engine_while_that_is_within_the_margin(self) -> None:
        async def scenario() -> None:
            both = dispatch(8, 8)
            first = await both.take("a")
            seen = [(await both.take("a")).number for _ in range(2)]
            assert seen == [first.number] * 2  # loads 1/8 and 2/8 above the other's
            assert MARGIN < 3 / 8
            assert (await both.take("a")).number != first.number
            moved = await both.take("a")
            assert moved.number != first.number  # and where it went is its home from then on

        asyncio.run(scenario())

    def test_who_waits_is_served_by_an_engine_that_takes_more(self) -> None:
        async def scenario() -> None:
            one = dispatch(2)
            engine = await one.take("a")
            assert await one.take("b") is engine
            waiting = [asyncio.ensure_future(one.take(name)) for name in "cd"]
            one.resize(engine, 3)
            assert await waiting[0] is engine and one.waiting == 1
            one.resize(engine, 1)
            one.give_back(engine)
            one.give_back(engine)
            assert one.waiting == 1 and engine.running == 1
            one.give_back(engine)
            assert await waiting[1] is engine

        asyncio.run(scenario())

    def test_nothing_waits_for_its_home_while_another_engine_has_room(self) -> None:
        async def scenario() -> None:
            both = dispatch(1, 1)
            assert (await both.take("a")).number == 1
            assert (await asyncio.wait_for(both.take("a"), 1)).number == 2

        asyncio.run(scenario())

    def test_a_request_without_a_place_waits_its_turn_and_an_engine_that_joins_serves_it(self) -> None:
        async def scenario() -> None:
            one = dispatch(1)
            held = await one.take("a")
            waiting = [asyncio.ensure_future(one.take(f"w{n}")) for n in range(3)]
            await asyncio.sleep(0)
            assert one.waiting == 3
            waiting[1].cancel()
            one.give_back(held)
            assert (await waiting[0]).number == 1
            one.join(Engine(2, None, 1))
            assert (await waiting[2]).number == 2 and one.waiting == 0

        asyncio.run(scenario())

    def test_a_place_given_to_a_request_that_is_cancelled_at_once_is_not_lost(self) -> None:
        async def scenario() -> None:
            one = dispatch(1)
            held = await one.take("a")
            waiting = asyncio.ensure_future(one.take("b"))
            await asyncio.sleep(0)
            one.give_back(held)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await asyncio.wait_for(one.take("c"), 1)).number == 1

        asyncio.run(scenario())

    def test_the_end_is_told_to_who_waits_and_who_comes(self) -> None:
        async def scenario() -> None:
            one = dispatch(1)
            await one.take("a")
            waiting = asyncio.ensure_future(one.take("b"))
            await asyncio.sleep(0)
            one.end(BackendError("no engine is left"))
            for late in (waiting, one.take("c")):
                with pytest.raises(BackendError, match="no engine is left"):
                    await late

        asyncio.run(scenario())

    def test_places_are_neither_lost_nor_made_under_a_thousand_random_events(self) -> None:
        async def scenario() -> None:
            draw, numbers = random.Random(7), iter(range(4, 10_000))
            several, held = dispatch(2, 3, 5), []
            tasks: list[asyncio.Task[Engine]] = []
            for _ in range(1000):
                event = draw.choice(["take", "take", "take", "give", "give", "cancel", "leave", "join"])
                if event == "take":
                    tasks.append(asyncio.ensure_future(several.take(f"e{draw.randrange(9)}")))
                elif event == "give" and held:
                    several.give_back(held.pop(draw.randrange(len(held))))
                elif event == "cancel" and tasks:
                    draw.choice(tasks).cancel()
                elif event == "leave" and len(several.engines) > 1:
                    several.leave(draw.choice(list(several.engines.values())))
                elif event == "join" and len(several.engines) < 5:
                    several.join(Engine(next(numbers), None, draw.randint(1, 5)))
                for _ in range(3):
                    await asyncio.sleep(0)
                done = [task for task in tasks if task.done()]
                held += [task.result() for task in done if not task.cancelled()]
                tasks = [task for task in tasks if not task.done()]
                for engine in several.engines.values():
                    assert engine.running == sum(h is engine for h in held) <= engine.places
                assert several.waiting == len(tasks)
                assert not tasks or all(e.running == e.places for e in several.engines.values())
            for task in tasks:
                task.cancel()

        asyncio.run(scenario())


def test_what_engines_do_is_told_in_sum_and_what_they_take_of_all_that_there_will_be() -> None:
    told = [{"running": 3, "kv_cache": 0.5, "concurrency": 10}, {"running": 1, "kv_cache": 0.1, "concurrency": 20}]
    assert in_sum(told, 4) == {"running": 4, "kv_cache": pytest.approx(0.3), "concurrency": 60}
    assert in_sum([{"running": 2}, {}], 2) == {"running": 2} and in_sum([], 2) == {}


def request(images: tuple[str, ...] = ()) -> Request:
    return Request((Message("user", "Is 1 right?", images),), DEFAULTS, 1, "r1")


class TestActor:
    def actor(self, kind: str = TOY["kind"], code: dict[str, bytes] | None = None, **options: Any) -> EngineActor:
        return EngineActor(kind, "toy", options, "/nowhere", code or {})

    def test_it_answers_as_its_engine_does(self) -> None:
        async def scenario() -> None:
            actor = self.actor()
            info = result(await actor.open(), "here")
            assert info.identity["engine"] == "toy" and await actor.where() and await actor.stats() == {}
            assert answered(await actor.generate(request(), {}), "here").text in ("yes", "no")
            assert result(await actor.models(["a"]), "here") == {"a": {"digest": "of a"}}
            await actor.aclose()
            await actor.aclose()

        asyncio.run(scenario())

    def test_what_goes_wrong_there_is_the_same_error_here(self) -> None:
        async def scenario() -> None:
            closed = await self.actor().generate(request(), {})
            with pytest.raises(BackendError, match="not open"):
                result(pickle.loads(pickle.dumps(closed)), "here")
            broken = self.actor(broken=True)
            await broken.open()
            with pytest.raises(BackendError, match="the engine is broken") as told:
                answered(await broken.generate(request(), {}), "here")
            assert told.value.final
            away = self.actor(withholds=[[], -1, 9], away=True)
            await away.open()
            with pytest.raises(BackendError, match="cannot answer") as told:
                answered(await away.generate(replace(request(), phase="confirm"), {}), "here")
            assert told.value.outside
            busy = self.actor(fail_every=1)
            await busy.open()
            with pytest.raises(BackendError) as told:
                answered(await busy.generate(request(), {}), "here")
            assert told.value.retryable
            with pytest.raises(SpecError, match="no module 'nowhere'"):
                result(await self.actor("nowhere:Engine").open(), "here")
            with pytest.raises(RuntimeError, match="on here: KeyError") as fault:
                nothing = Request((Message("user", "?"),), {}, 1, "r")
                answered(await _opened(self.actor()).generate(nothing, {}), "here")
            assert "toy.py" in fault.value.__notes__[0]
            with pytest.raises(MissingExtra, match=r"on here: vLLM is not installed.*genopt\[vllm\]"):
                result(("extra", (str(MissingExtra("vLLM", "vllm")), "vllm")), "here")
            with pytest.raises(BackendError, match="returned str, no Generation"):
                answered(("done", "text"), "here")

        asyncio.run(scenario())

    def test_images_are_files_there_too(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            log = tmp_path / "log"
            actor = self.actor(log=str(log), images=True)
            await actor.open()
            await actor.generate(request(("/home/x/cat.png",)), {"/home/x/cat.png": b"pixels"})
            seen = log.read_text()
            assert "/home/x" not in seen and ".png" in seen
            await actor.aclose()

        asyncio.run(scenario())

    def test_a_module_of_the_study_is_found_where_the_folder_is_not(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("from tests.toy import ToyBackend\nclass Mine(ToyBackend): ...\n")

        async def scenario() -> None:
            actor = self.actor("mine:Mine", code_of(tmp_path))
            assert result(await actor.open(), "here").identity["engine"] == "toy"
            await actor.aclose()

        asyncio.run(scenario())


def _opened(actor: EngineActor) -> EngineActor:
    from tests.toy import ToyBackend

    actor._backend = ToyBackend(model="toy")
    return actor


class TestStudyFile:
    def test_only_python_travels(self, tmp_path: Path) -> None:
        for name in (".env", "key.pem", "data.jsonl", "study.toml", "a.py", "pack/__init__.py", "pack/b.py", "no/c.py"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x = 1")
        assert set(code_of(tmp_path)) == {"a.py", "pack/__init__.py", "pack/b.py"}
        (tmp_path / "big.py").write_bytes(b"#" * (CODE_LIMIT + 1))
        with pytest.raises(SpecError, match="too many to send"):
            code_of(tmp_path)

    def test_the_engine_is_checked_before_any_cluster_is_touched(self, tmp_path: Path) -> None:
        spec = {"kind": "ray", "engine": {"kind": "vllm", "model": "m", "options": {"enable_lora": True}}}
        with pytest.raises(SpecError, match=r"backend\.engine\.options\.enable_lora"):
            make_backend(BackendSpec(**spec), tmp_path)
        known = make_backend(BackendSpec(kind="ray", engine={"kind": "ollama", "model": "m"}), tmp_path)
        assert "num_ctx" not in known.known.params and "top_k" in known.known.params  # type: ignore[attr-defined]

    def test_a_study_names_the_inner_model_and_slips_are_told(self, tmp_path: Path) -> None:
        spec = make_study(study(tmp_path, backend={**RAY, "replicas": 2}))
        assert spec.backend.model == "toy" and spec.backend.replicas == 2
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"kind": "ray"}, "is missing"),
            ({"kind": "ray", "model": "m"}, "engine is missing"),
            ({**RAY, "replicas": 0}, r"backend\.replicas: 0 is too small"),
            ({**RAY, "model": "other"}, "is not engine.model"),
            ({"kind": "ray", "engine": {"kind": "ray", "model": "m"}}, "cannot run Ray"),
            ({"kind": "ollama", "model": "m", "replicas": 2}, 'replicas: only with kind = "ray"'),
        ]
        for table, message in wrong:
            with pytest.raises(SpecError, match=message):
                make_study(study(tmp_path, backend=table))

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"adress": "auto"}, "Did you mean 'address'"),
            ({"num_gpus": -1}, "num_gpus: -1 is not a number from 0 on"),
            ({"num_cpus": True}, "num_cpus: True is not"),
            ({"resources": {"a": 0}}, "resources"),
            ({"start_timeout": "1 h"}, "start_timeout: '1 h' is not a number of seconds"),
            ({"address": 1}, "address: 1 is not a text"),
        ],
    )
    def test_wrong_options_are_told(self, option: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            options_of(option)

    def test_a_misspelt_parameter_is_refused_before_ray_is_looked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, "ray", None)
        engine = {"kind": "ollama", "model": "m"}
        table = study(tmp_path, backend={"kind": "ray", "engine": engine}, space={"top_q": {"low": 0.1, "high": 1.0}})
        with pytest.raises(SpecError, match="top_q"):
            asyncio.run(prepare(make_study(table, folder=tmp_path)))
        table["space"] = {"top_p": {"low": 0.1, "high": 1.0}}
        with pytest.raises(MissingExtra, match=r'pip install "genopt\[ray\]"'):
            asyncio.run(prepare(make_study(table, folder=tmp_path)))
