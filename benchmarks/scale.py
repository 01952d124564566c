"""Many workers on one study, and one study that is large; both on PostgreSQL, whose programs it needs.

    python benchmarks/scale.py workers --plot benchmarks/scale.svg
    python benchmarks/scale.py large

workers: 1, 2, 4 and 8 processes of `genopt optimize` on one study, each with an engine of its own whose every answer
takes SERVICE seconds, PLACES of them at once: observations a second while all of them search, against as many times
what one engine could make, and as many times what one worker made. Whatever is lost is lost between engine, worker and
database. The engines only wait, and eight of them make 64 observations a second at most: little enough that two cores
are not what is measured. CPU-seconds are printed, to be held against that.

large: 1,000 trials of 100 examples, filled in, and as many of 10 examples: how long it takes to open such a study as
`genopt optimize` does, and to ask for the next trial.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from genopt.events import silence  # noqa: E402
from genopt.outcomes import known_of, outcome_of  # noqa: E402
from genopt.plan import Plan  # noqa: E402
from genopt.prepare import prepare  # noqa: E402
from genopt.report.toml import toml_text  # noqa: E402
from genopt.runner import check_unchanged  # noqa: E402
from genopt.search import measure_baseline  # noqa: E402
from genopt.session import Session  # noqa: E402
from genopt.spec.read import make_study  # noqa: E402
from genopt.stats import mean_se  # noqa: E402
from genopt.study import Budget  # noqa: E402
from genopt.tables import generation_row, score_row  # noqa: E402
from genopt.trial import Configuration, Evaluation, Observation, seed_of  # noqa: E402
from genopt.types import BackendInfo, Domain, Generation, Range, Request, Score  # noqa: E402
from tests.databases import Postgres  # noqa: E402

SERVICE, PLACES = 1.0, 8
EXAMPLES, HELD_OUT = 100, 20
TOKENS = 12
STOPPED = 75  # the exit code of a worker that was asked to stop


class Fixed:
    """An engine whose every answer takes SERVICE seconds (`options.service`), PLACES of them at once. With
    `options.log`, a folder, it notes when each answer was ready. Whether one is right is decided by its seed, and more
    often so the nearer the temperature is to 0.6."""

    def __init__(self, *, model: str, options: Mapping[str, Any] | None = None) -> None:
        options = options or {}
        self._service, self._places = options.get("service", SERVICE), asyncio.Semaphore(PLACES)
        self._log = Path(options["log"], str(os.getpid())) if "log" in options else None

    async def open(self) -> BackendInfo:
        parameters = {
            "temperature": Domain("float", "randomness", 0.0, 2.0, search=Range(0.1, 1.5)),
            "top_p": Domain("float", "nucleus", 0.0, 1.0, low_open=True, neutral=(1.0,), search=Range(0.5, 1.0)),
        }
        return BackendInfo({"engine": "fixed"}, parameters, {"temperature": 1.0, "top_p": 1.0}, PLACES)

    async def generate(self, request: Request) -> Generation:
        async with self._places:
            await asyncio.sleep(self._service)
        if self._log is not None:
            with self._log.open("a", encoding="ascii") as file:
                print(f"{time.time():.3f}", file=file)
        return Generation(answer(request.params, request.seed), "stop", 20, TOKENS, self._service)

    async def aclose(self) -> None: ...


def answer(params: Mapping[str, Any], seed: int) -> str:
    """The text of a request."""
    return "yes" if seed % 1000 < 1000 * (0.85 - 0.4 * abs(params["temperature"] - 0.6)) else "no"


def table(url: str, examples: int, *, trials: int, **options: Any) -> dict[str, Any]:
    """A study on this engine that searches on so many examples."""
    rows = [{"id": f"r{n}", "question": f"Is {n} right?", "answer": "yes"} for n in range(examples + HELD_OUT)]
    return {
        "name": "scale",
        "storage": url,
        "dataset": {"rows": rows, "holdout": HELD_OUT / len(rows)},
        "prompt": {"user": "{{ question }}"},
        "backend": {"kind": "scale:Fixed", "model": "m", "options": options},
        "space": {"temperature": {"low": 0.1, "high": 1.5}, "top_p": {"low": 0.5, "high": 1.0}},
        "scorers": {"right": {"kind": "contains"}},
        "budget": {"trials": trials},
    }


# --- many workers


@dataclass(frozen=True)
class Pace:
    """What some workers did in `seconds` in which all of them searched, and the CPU-seconds of the whole run: theirs,
    starting Python included, and the database's."""

    workers: int
    observations: int
    seconds: float
    cpu: float
    database_cpu: float

    @property
    def rate(self) -> float:
        return self.observations / self.seconds


def pace(server: Postgres, count: int, seconds: float) -> Pace:
    """Start so many workers on a new study, let them search for so long, and stop them."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path[:2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "genopt", "optimize", "study.toml", "--quiet"]
    with tempfile.TemporaryDirectory() as made:
        folder, log = Path(made), Path(made, "log")
        log.mkdir()
        study = table(server.database(f"workers{count}"), EXAMPLES, trials=100_000, log=str(log))
        lines = [json.dumps(row) for row in study["dataset"].pop("rows")]
        (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
        study["dataset"]["path"] = "data.jsonl"
        (folder / "study.toml").write_text(toml_text(study), encoding="utf-8")
        before, database_before = children_cpu(), process_cpu(server)
        options: dict[str, Any] = {"cwd": folder, "env": environment, "stdout": subprocess.DEVNULL}
        workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options) for _ in range(count)]
        try:
            while not searching(log, count):
                if any(worker.poll() is not None for worker in workers):
                    raise SystemExit("a worker ended too early")
                time.sleep(0.2)
            began = time.time()
            time.sleep(seconds)
            ended = time.time()
        finally:
            for worker in workers:
                worker.terminate()
            said = [worker.communicate()[1] for worker in workers]
        if bad := [text for worker, text in zip(workers, said, strict=True) if worker.returncode != STOPPED]:
            raise SystemExit(f"a worker failed: {bad[0][-500:]}")
        found = sum(began <= at < ended for answered in answers(log) for at in answered)
    return Pace(count, found, ended - began, children_cpu() - before, process_cpu(server) - database_before)


def answers(log: Path) -> list[list[float]]:
    """When each engine's answers were ready."""
    return [[float(line) for line in file.read_text(encoding="ascii").splitlines()] for file in log.iterdir()]


def searching(log: Path, count: int) -> bool:
    """Whether all of them search by now: they have measured the baseline together, and been at it for a while since."""
    found = answers(log)
    together = sorted(at for answered in found for at in answered)
    if len(found) < count or len(together) < EXAMPLES:
        return False
    return all(answered and answered[-1] > together[EXAMPLES - 1] + 3 * SERVICE for answered in found)


def children_cpu() -> float:
    """CPU-seconds of the processes that were started here and have ended."""
    used = os.times()
    return used.children_user + used.children_system


def process_cpu(server: Postgres) -> float:
    """CPU-seconds of the database, its connections that are closed included; 0 where the system does not say."""
    assert server.process is not None
    try:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def workers_table(paces: Sequence[Pace]) -> list[str]:
    """Observations a second by the number of workers; of the first row's number, and of what engines could make."""
    lines = [
        "| workers | observations/s | of one worker's | of the engines' | CPU s of workers | of PostgreSQL |",
        "|---|---|---|---|---|---|",
    ]
    first = paces[0].rate / paces[0].workers
    for each in paces:
        linear, engines = each.rate / (each.workers * first), each.rate * SERVICE / (PLACES * each.workers)
        cells = [f"{each.rate:.1f}", f"{linear:.2f}", f"{engines:.2f}", f"{each.cpu:.0f}", f"{each.database_cpu:.0f}"]
        lines.append(f"| {each.workers} | {' | '.join(cells)} |")
    return lines


def plot(file: str, paces: Sequence[Pace]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "genopt"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.4))
    numbers = [each.workers for each in paces]
    one = paces[0].rate / paces[0].workers
    axes.plot(numbers, [n * one for n in numbers], "--", color="grey", label="linear, from one worker")
    axes.plot(numbers, [0.9 * n * one for n in numbers], ":", color="grey", label="0.9 of it")
    axes.plot(numbers, [each.rate for each in paces], "o-", label="workers on one PostgreSQL study")
    axes.set(xlabel="workers", ylabel="observations a second", xticks=numbers, ylim=(0, None))
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


# --- a large study


async def fill(plan: Plan, trials: int) -> None:
    """A study of so many finished trials, written in bulk: rows as workers write them, each trial told."""
    session = Session(plan, silence)
    try:
        await session.open()
        await check_unchanged(session)
        await session.start()
        await measure_baseline(session)
        draw = random.Random(7)
        configs: list[Configuration] = []
        while len(configs) < trials - 1:
            configs.append(plan.configure({"temperature": draw.uniform(0.1, 1.5), "top_p": draw.uniform(0.5, 1.0)}))
        for config in configs:
            evaluation, rows = filled(session, config)
            values = evaluation.utility()
            known = known_of(session, None, evaluation, float(values.mean()))
            located = {name: config.params[name] for name in plan.space.names()}
            _, trial_id = await session.db(
                session.study.enter,
                located,
                known.values,
                config={"key": config.key, "params": dict(config.params)},
                outcome=outcome_of(session, known, evaluation, mean_se(values)),
                violations={},
            )
            for name, found in rows.items():
                for row in found:
                    session.writer.add(name, row if name != "genopt_trial_rows" else {"trial_id": trial_id, **row})
        await session.flush()
    finally:
        await session.close()


def filled(session: Session, config: Configuration) -> tuple[Evaluation, dict[str, list[dict[str, Any]]]]:
    """A configuration on all of the tune split, and its rows."""
    plan = session.plan
    (scorer,) = plan.scorer_keys.values()
    rows: dict[str, list[dict[str, Any]]] = {"genopt_generations": [], "genopt_scores": [], "genopt_trial_rows": []}
    evaluation = Evaluation(config, plan.tune)
    for position, example in enumerate(plan.tune):
        seed = seed_of(plan.spec.seed, example.id, 0, "tune")
        text = answer(config.request, seed + position)
        made = Generation(text, "stop", 20, TOKENS, SERVICE)
        row = generation_row(
            session.study.id, config.key, example.id, 0, "tune", seed, config.request, made, kin=config.kin
        )
        score = float(text == "yes")
        rows["genopt_generations"].append(row)
        rows["genopt_scores"].append(score_row(row["id"], scorer, Score(score)))
        rows["genopt_trial_rows"].append({"generation_id": row["id"]})
        evaluation.cells[position, 0] = Observation({"right": score, "completion_tokens": TOKENS}, score)
    return evaluation, rows


async def opened(plan: Plan, trials: int) -> dict[str, float]:
    """Seconds, and CPU-seconds of this process, to open a study that is there until it can be searched on, to ask for
    the next trial, and to have all scores at hand, which comes before that trial's first request."""
    session = Session(plan, silence)
    try:
        marks = [(time.perf_counter(), time.process_time())]
        await session.open()
        await check_unchanged(session)
        await session.start()
        await measure_baseline(session)
        marks.append((time.perf_counter(), time.process_time()))
        asked = await session.ask(Budget(trials + 10), [])
        marks.append((time.perf_counter(), time.process_time()))
        await session.recall()
        marks.append((time.perf_counter(), time.process_time()))
        assert asked is not None and len(session.evaluations) == trials and not session.meter.here
        found: dict[str, float] = {}
        for name, before, after in zip(("opening", "ask", "all scores"), marks[:-1], marks[1:], strict=True):
            found |= {name: after[0] - before[0], f"{name}, CPU": after[1] - before[1]}
        return found
    finally:
        await session.close()


def large(server: Postgres, trials: int, examples: int, runs: int) -> dict[str, float]:
    """A filled study's times, each the median of `runs` processes of its own."""
    program = [sys.executable, __file__, "open", server.database(f"large{examples}"), str(trials), str(examples)]
    subprocess.run([*program, "--fill"], check=True)
    found = [json.loads(subprocess.run(program, check=True, capture_output=True).stdout) for _ in range(runs)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


async def work_on(url: str, trials: int, examples: int, *, filling: bool) -> None:
    plan = await prepare(make_study(table(url, examples, trials=trials + 10, service=0.0), folder=HERE))
    try:
        if filling:
            await fill(plan, trials)
        else:
            print(json.dumps(await opened(plan, trials)))
    finally:
        await plan.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    many = commands.add_parser("workers", help="observations a second of several workers on one study")
    many.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    many.add_argument("--seconds", type=float, default=40.0, help="how long they are watched")
    many.add_argument("--plot", metavar="FILE.svg", help="write a figure (needs matplotlib)")
    big = commands.add_parser("large", help="opening a study of many trials, and an ask")
    big.add_argument("--trials", type=int, default=1000)
    big.add_argument("--examples", type=int, nargs="+", default=[10, 100])
    big.add_argument("--runs", type=int, default=3)
    one = commands.add_parser("open", help="(used by large) fill a study, or open it once")
    one.add_argument("url")
    one.add_argument("trials", type=int)
    one.add_argument("examples", type=int)
    one.add_argument("--fill", action="store_true")
    args = parser.parse_args()
    if args.command == "open":
        asyncio.run(work_on(args.url, args.trials, args.examples, filling=args.fill))
        return
    with Postgres() as server:
        if args.command == "large":
            columns = ("opening", "opening, CPU", "ask", "ask, CPU", "all scores", "all scores, CPU")
            print(f"| trials | observations | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|", sep="\n")
            for examples in args.examples:
                found = large(server, args.trials, examples, args.runs)
                times = " | ".join(f"{found[name]:.2f}" for name in columns)
                print(f"| {args.trials:,} | {args.trials * examples:,} | {times} |", flush=True)
            return
        paces = []
        for count in args.workers:
            paces.append(pace(server, count, args.seconds))
            print(paces[-1], file=sys.stderr, flush=True)
        print(*workers_table(paces), sep="\n")
        if args.plot:
            plot(args.plot, paces)


if __name__ == "__main__":
    main()
