"""python -m benchmarks.occupancy [--slots 512] [--seeds 3] [--ask 0.1]   How full a study keeps an engine, by phase.

A whole `genopt.optimize` over a stand-in engine that writes `slots` texts at once and takes a time for each that is
proportional to its length; lengths are drawn (log-normal). It runs on a virtual clock that jumps to the next text as
soon as nothing else is to be done, so what is measured is the schedule alone, whatever else the machine does; `--ask`
is what a proposal is said to take on that clock. Occupancy is the area under the running texts over slots x time.

Full slots may be bought with waste, so beside it stand the texts that were written and those that were cut off, and the
regret: what the winner is worth less than the best, in points. A shape that is named after one of the recorded tables
answers, and takes its lengths, as was recorded there; its configurations are proposed as genopt does it (`auto`), those
of the others at random.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import selectors
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import genopt
from benchmarks.search import replay
from benchmarks.search.grid import Places
from benchmarks.search.replay import Replay
from benchmarks.search.table import load, names
from genopt.events import StageStarted
from genopt.runner import optimize_async
from genopt.session import Session
from genopt.spec.read import make_study
from genopt.types import BackendInfo, Domain, Generation, Range, Request

SHAPES: dict[str, dict[str, Any]] = {  # rows, the share that is held out, budget, words of a text, how unequal they are
    "40 examples": {"rows": 60, "holdout": 1 / 3, "budget": {"trials": 60}, "words": 200, "spread": 0.6},
    "200 examples": {"rows": 300, "holdout": 1 / 3, "budget": {"trials": 24}, "words": 200, "spread": 0.6},
    "200, all as long": {"rows": 300, "holdout": 1 / 3, "budget": {"trials": 24}, "words": 64, "spread": 0.0},
    "200, counted": {"rows": 300, "holdout": 1 / 3, "budget": {"generations": 5500}, "words": 200, "spread": 0.6},
    "1,000 examples": {"rows": 1400, "holdout": 2 / 7, "budget": {"trials": 12}, "words": 200, "spread": 0.6},
    **{name: {"table": name, "budget": {"trials": 30}} for name in names() if name != "flat"},
    **{f"{name}, counted": {"table": name, "budget": {"generations": 1500}} for name in names() if name != "flat"},
}
A_WORD = 0.01  # seconds
LONGER = 10  # times that a text takes longer than a recorded one, whose mean is about 20 tokens


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer when neither it nor a thread that it waits for has anything to do."""

    def __init__(self) -> None:
        super().__init__(selectors.DefaultSelector())
        self.now, self.threads = 0.0, 0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            if timeout is None or timeout <= 0:
                return select(timeout)
            if self.threads:
                return select(None)
            self.now += timeout
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        return self.awaited(super().run_in_executor(executor, func, *args))

    def awaited(self, future: Any) -> Any:
        """The future of something that a thread does."""
        self.threads += 1
        future.add_done_callback(self._let_go)
        return future

    def _let_go(self, _: Any) -> None:
        self.threads -= 1


def worth(params: Mapping[str, Any]) -> float:
    """The chance that a text of the stand-in is right."""
    return 0.8 - 0.4 * abs(float(params["temperature"]) - 0.6) - 0.1 * abs(float(params["top_p"]) - 0.8)


class Engine:
    """Writes `slots` texts at once, at one speed each; keeps how many were written when."""

    slots = 512
    words, spread = 200.0, 0.5
    here: Engine

    def __init__(self, *, model: str, options: Mapping[str, Any] | None = None) -> None:
        type(self).here = self
        self.free = asyncio.Semaphore(self.slots)
        self.running, self.since, self.stage = 0, 0.0, "opening"
        self.area: dict[str, float] = defaultdict(float)
        self.seconds: dict[str, float] = defaultdict(float)
        self.texts = self.cut = 0
        self._table = Replay(model=model) if model != "none" else None

    async def open(self) -> BackendInfo:
        if self._table is not None:
            return replace(await self._table.open(), concurrency=self.slots * 5 // 4, idle_is_free=True)
        params = {
            "temperature": Domain("float", "randomness", 0.0, 2.0, search=Range(0.1, 1.5)),
            "top_p": Domain("float", "nucleus", 0.0, 1.0, low_open=True, neutral=(1.0,), search=Range(0.5, 1.0)),
        }
        identity, defaults = {"engine": "stand-in", "version": "1", "model": "none"}, {"temperature": 1.2, "top_p": 1.0}
        return BackendInfo(identity, params, defaults, concurrency=self.slots * 5 // 4, idle_is_free=True)

    async def generate(self, request: Request) -> Generation:
        found = await self._table.generate(request) if self._table is not None else self._made_up(request)
        async with self.free:
            self.mark(+1)
            self.cut += 1
            try:
                await asyncio.sleep(found.completion_tokens * A_WORD * (LONGER if self._table is not None else 1))
                self.cut -= 1
            finally:
                self.mark(-1)
        self.texts += 1
        return found

    def _made_up(self, request: Request) -> Generation:
        draw = random.Random(f"{request.seed} {request.example_id} {sorted(request.params.items())}")
        words = max(1, round(self.words * draw.lognormvariate(-(self.spread**2) / 2, self.spread)))
        chance = worth(request.params) + 0.4 * (random.Random(request.example_id).random() - 0.5)
        return Generation("yes" if draw.random() < chance else "no", "stop", 10, words, words * A_WORD)

    def mark(self, more: int = 0, stage: str = "") -> None:
        """The running texts change, or the stage does."""
        now = asyncio.get_running_loop().time()
        self.area[self.stage] += self.running * (now - self.since)
        self.seconds[self.stage] += now - self.since
        self.running, self.since, self.stage = self.running + more, now, stage or self.stage

    async def aclose(self) -> None:
        pass


@dataclass(frozen=True)
class Ran:
    """Per phase, and of "all": the seconds that it took, and the share of the slots that were busy; texts written and
    cut off; what the winner is worth less than the best, in points."""

    phases: Mapping[str, tuple[float, float]]
    texts: int
    cut: int
    regret: float


def study(shape: Mapping[str, Any], seed: int, storage: str) -> genopt.StudySpec:
    """The study of a shape."""
    if "table" in shape:
        found = replay.study(load(shape["table"]), seed=seed, storage=storage, budget=shape["budget"])
        found["backend"] = {"kind": f"{__name__}:Engine", "model": shape["table"]}
        return make_study(found, folder=Path("."))
    rows = [{"id": f"r{n}", "question": f"Is {n} right?", "answer": "yes"} for n in range(shape["rows"])]
    return genopt.StudySpec(
        name="occupancy",
        storage=storage,
        seed=seed,
        dataset={"rows": rows, "holdout": shape["holdout"]},
        prompt={"user": "{{ question }}"},
        backend={"kind": f"{__name__}:Engine", "model": "none"},
        scorers={"right": {"kind": "exact_match"}},
        search={"sampler": "random"},
        budget=shape["budget"],
    )


def regret(shape: Mapping[str, Any], chosen: Mapping[str, Any]) -> float:
    """What a configuration is worth less than the best, in points."""
    if "table" not in shape:
        return 100 * (0.8 - worth(chosen))
    table = load(shape["table"])
    place = Places(table.about["space"], table.configurations).of(chosen)
    return float(100 * (table.truth.max() - table.truth[place]))


def occupancy(shape: Mapping[str, Any], *, slots: int, seed: int, ask: float) -> Ran:
    """One study."""
    Engine.slots, Engine.words, Engine.spread = slots, shape.get("words", 0), shape.get("spread", 0)
    loop = VirtualLoop()
    plain_wrap, plain_ask = asyncio.wrap_future, Session.ask
    line = asyncio.Lock()

    async def asking(self: Session, *args: Any) -> Any:
        async with line:
            asked = await plain_ask(self, *args)
            await asyncio.sleep(ask)
            return asked

    def wrapped(future: Any, **more: Any) -> Any:
        return loop.awaited(plain_wrap(future, **more))

    def listen(event: Any) -> None:
        if isinstance(event, StageStarted):
            Engine.here.mark(stage=event.stage)

    asyncio.wrap_future, Session.ask = wrapped, asking  # type: ignore[assignment, method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            spec = study(shape, seed, f"sqlite:///{folder}/study.db")
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                result = runner.run(optimize_async(spec, on_event=listen))
    finally:
        asyncio.wrap_future, Session.ask = plain_wrap, plain_ask  # type: ignore[method-assign]
    engine = Engine.here
    phases = {stage: (t, engine.area[stage] / (slots * t)) for stage, t in engine.seconds.items() if t > 0}
    total = sum(engine.seconds.values())
    phases["all"] = (total, sum(engine.area.values()) / (slots * total))
    return Ran(phases, engine.texts, engine.cut, regret(shape, result.verdict.params))


def main() -> None:
    """Print the table of benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ask", type=float, default=0.1, help="seconds that a proposal takes (0.1)")
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=[name for name in SHAPES if "rows" in SHAPES[name]]
    )
    given = parser.parse_args()
    phases = ("baseline", "search", "finalists", "confirm", "all")
    print(f"| study | slots | texts | cut off | regret | {' | '.join(phases)} |")
    print("|---" * (5 + len(phases)) + "|")
    for name in given.shapes:
        for slots in given.slots:
            runs = [occupancy(SHAPES[name], slots=slots, seed=n, ask=given.ask) for n in range(given.seeds)]
            lost = [run.regret for run in runs]
            error = statistics.stdev(lost) / math.sqrt(len(lost)) if len(lost) > 1 else math.nan
            cells = [
                f"{statistics.median(texts):,.0f}" for texts in zip(*((r.texts, r.cut) for r in runs), strict=True)
            ]
            cells.append(f"{statistics.mean(lost):.2f} ± {error:.2f}")
            for phase in phases:
                seconds, full = zip(*(run.phases.get(phase, (0.0, 0.0)) for run in runs), strict=True)
                cells.append(f"{statistics.median(seconds):.1f} s, {statistics.median(full):.0%}")
            print(f"| {name} | {slots} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
