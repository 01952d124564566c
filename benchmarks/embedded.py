"""python benchmarks/embedded.py [--peer PYTHON] [--runs 3]   CPU-seconds of the embedded engine, against two peers.

12 configurations x 40 prompts x 64 tokens on the quickstart's model: all 480 requests at once, the same requests one by
one, and llmsearch 0.1.0, which decodes one configuration at a time in padded batches: as shipped (a GridSearchCV with
cv=2 and batches of 16, as its own examples have it), the same with its gc.collect calls off, and, as well as it can,
with them off and no folds, the 40 prompts in one batch. llmsearch needs an environment of its own, whose Python is
`--peer`:

    pip install llmsearch==0.1.0 transformers==4.41.2 "numpy<2" "pyarrow<20"

Every way has a process of its own with one thread; only generating is counted, not loading. All write exactly 64 tokens
a request, with the same weights, prompts and settings. `--flips` counts the texts that differ between a row alone and
the same row among others instead, in float32 and in bfloat16. `--device cuda` measures genopt on a GPU, in seconds, and
`--every 10` has every tenth request alone only: there each takes as long as all of them together.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STUDY = Path(__file__).parents[1] / "studies" / "quickstart"
PROMPTS, TOKENS = 40, 64
CONFIGURATIONS: list[dict[str, float]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.2},
    {"temperature": 0.5},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 40},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
    {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.95},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.2, "top_k": 100, "min_p": 0.05},
    {"temperature": 1.5, "min_p": 0.1, "repetition_penalty": 1.1},
]
NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
WAYS = {
    "batched": "genopt, all at once",
    "shipped": "llmsearch as shipped",
    "no-gc": "llmsearch, gc.collect off",
    "no-gc-40": "llmsearch, gc.collect off, no folds, one batch",
    "single": "genopt, one by one (once)",
}


def prompts() -> list[str]:
    """The first prompts of the quickstart, as its chat template writes them."""
    rows = [json.loads(line) for line in (STUDY / "data.jsonl").read_text(encoding="utf-8").splitlines()[:PROMPTS]]
    names = {"Walk": "name", **{name.title(): name for name in ("length", "level", "start", "sight", "dogs")}}
    cards = ["\n".join(f"{said}: {row[name]}" for said, name in names.items() if row.get(name)) for row in rows]
    return [f"<|user|>{card}<|end|><|assistant|>" for card in cards]


async def ours(
    way: str, device: str, *, dtype: str = "float32", batch: int = 64, every: int = 1
) -> tuple[float, list[str]]:
    """CPU-seconds of all requests (on a GPU seconds), and their texts."""
    from genopt.backends.transformers import TransformersBackend
    from genopt.types import Message, Request

    options = {"threads": 1, "device": device, "raw": True, "dtype": dtype, "batch_size": batch}
    backend = TransformersBackend(model=str(STUDY / "model"), options=options)
    await backend.open()
    length = {"max_tokens": TOKENS, "min_tokens": TOKENS}
    requests = [
        Request((Message("user", prompt),), {**NEUTRAL, **configuration, **length}, seed, f"row {seed}")
        for configuration, (seed, prompt) in itertools.product(CONFIGURATIONS, enumerate(prompts()))
    ][::every]
    clock = time.process_time if device == "cpu" else time.perf_counter
    await backend.generate(requests[0])
    began = clock()
    if way == "single":
        done = [await backend.generate(request) for request in requests]
    else:
        done = await asyncio.gather(*(backend.generate(request) for request in requests))
    seconds = clock() - began
    await backend.aclose()
    assert all(generation.completion_tokens == TOKENS for generation in done)
    return seconds, [generation.text for generation in done]


def older(tokenizer: str) -> str:
    """A tokenizer.json as tokenizers 0.19 reads it: merges are texts, not pairs."""
    table = json.loads(tokenizer)
    table["model"]["merges"] = [" ".join(pair) for pair in table["model"]["merges"]]
    return json.dumps(table)


def llmsearch(way: str) -> float:
    """CPU-seconds of llmsearch for the same."""
    with contextlib.redirect_stdout(sys.stderr):  # it prints while it is imported
        from llmsearch.tuner import Tuner
    import torch
    from datasets import Dataset
    from sklearn.model_selection import GridSearchCV
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    folder = STUDY / "model"
    core = Tokenizer.from_str(older((folder / "tokenizer.json").read_text(encoding="utf-8")))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|pad|>", eos_token="<|end|>", padding_side="left"
    )
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    model.generation_config.update(temperature=1.0, top_k=50, top_p=1.0, do_sample=False)  # the library's own
    tuner = Tuner(
        model=model,
        tokenizer=tokenizer,
        dataset=Dataset.from_dict({"text": prompts(), "answer": [""] * PROMPTS}),
        column_mapping={"input_cols": ["text"], "eval_cols": ["answer"]},
        prompt_template="{text}",
        scorer=lambda y_true, y_pred: 0.0,
        device="cpu",
        batch_size=40 if way == "no-gc-40" else 16,
        tokenizer_encode_args={"padding": "longest", "add_special_tokens": False},
        disable_batch_size_cache=True,
    )
    if way != "shipped":
        gc.collect = lambda *_: 0
    began = time.process_time()
    if way == "no-gc-40":
        for settings in map(theirs, CONFIGURATIONS):
            tuner.get_score(settings)
    else:
        grid = [{name: [value] for name, value in theirs(one).items()} for one in CONFIGURATIONS]
        search = GridSearchCV(tuner.estimator, param_grid=grid, scoring=tuner.scorer, cv=2, refit=False)
        search.fit(X=tuner.dataset["_X"], y=tuner.dataset["_y"])
        assert len(search.cv_results_["params"]) == len(CONFIGURATIONS)
    return time.process_time() - began


def theirs(configuration: dict[str, float]) -> dict[str, Any]:
    """A configuration in the words of `generate`."""
    length = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "generation_seed": 1}
    if configuration["temperature"] == 0:
        return {**configuration, **length, "do_sample": False, "temperature": 1.0}
    full = {**NEUTRAL, **configuration, **length, "do_sample": True}
    return {name: value for name, value in full.items() if (name, value) != ("min_p", 0.0)}


def measure(way: str, python: str) -> dict[str, Any]:
    """One way in a process of its own."""
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    paths = {"PYTHONPATH": str(STUDY.parents[1])} if way in ("batched", "single") else {}
    command = [python, "-W", "ignore", __file__, "--way", way]
    done = subprocess.run(command, env=os.environ | quiet | paths, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_way(way: str) -> None:
    """Print the CPU-seconds of one way, and the versions it ran with, as JSON."""
    seconds = asyncio.run(ours(way, "cpu"))[0] if way in ("batched", "single") else llmsearch(way)
    import torch
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(json.dumps({"seconds": seconds, "versions": versions}))


def flips(device: str, every: int) -> None:
    """Print how many of the 480 texts differ between a row alone and the same row among 16 and 64."""
    for dtype in ("float32", "bfloat16"):
        alone = asyncio.run(ours("single", device, dtype=dtype, batch=1, every=every))[1]
        for batch in (16, 64):
            among = asyncio.run(ours("batched", device, dtype=dtype, batch=batch))[1][::every]
            changed = sum(a != b for a, b in zip(alone, among, strict=True))
            print(
                f"{dtype}: {changed} of {len(alone)} texts differ between a row alone and in a batch of {batch}",
                flush=True,
            )


def on_a_gpu(device: str, every: int) -> None:
    """Print the seconds of all requests at once, in batches of two sizes, and of those that were run one by one."""
    import torch
    import transformers

    count = len(CONFIGURATIONS) * PROMPTS
    card = torch.cuda.get_device_name() if device.startswith("cuda") else device
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{card}, {versions}, Python {platform.python_version()}")
    speed = {}
    for way, batch, of in (("batched", count, 1), ("batched", 64, 1), ("single", 64, every)):
        runs = 1 if way == "single" else 3
        seconds = statistics.median(asyncio.run(ours(way, device, batch=batch, every=of))[0] for _ in range(runs))
        speed[way, batch] = len(range(0, count, of)) * TOKENS / seconds
        times = speed["batched", count] / speed[way, batch]
        told = f"{way}, batch {batch}" if way == "batched" else f"one by one, {len(range(0, count, of))} of them"
        print(f"{told}: {seconds:.2f} s, {speed[way, batch]:,.0f} tokens/s, 1/{times:.1f} of all at once", flush=True)


def main() -> None:
    """Print a line per way: medians over the runs, and how many times its tokens per CPU-second the batch makes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", help="the Python of llmsearch's environment")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help="on which genopt runs, e.g. cuda")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="on a GPU, run every Nth request alone")
    given = parser.parse_args()
    if given.way:
        return run_way(given.way)
    if given.flips:
        return flips(given.device, given.every)
    if given.device != "cpu":
        return on_a_gpu(given.device, given.every)
    ways = [way for way in WAYS if way in ("batched", "single") or given.peer]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for turn, way in itertools.product(range(given.runs), ways):  # taking turns: a busy moment hits all of them
        if way != "single" or turn == 0:  # which takes longest, and is furthest from its bar
            found[way].append(measure(way, sys.executable if way in ("batched", "single") else given.peer))
            print(f"{way}: {found[way][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    tokens = len(CONFIGURATIONS) * PROMPTS * TOKENS
    print(f"Python {platform.python_version()}, {given.runs} runs, {tokens:,} tokens each")
    print("| way | CPU-seconds | tokens per CPU-second | times fewer in one batch |")
    print("|---|---|---|---|")
    for way in ways:
        seconds = statistics.median(run["seconds"] for run in found[way])
        pairs = zip(found[way], found["batched"], strict=False)
        times = [other["seconds"] / batched["seconds"] for other, batched in pairs]
        print(
            f"| {WAYS[way]} ({found[way][0]['versions']}) | {seconds:.1f} | {tokens / seconds:,.0f} |"
            f" {statistics.median(times):.2f} [{min(times):.2f}, {max(times):.2f}] |"
        )


if __name__ == "__main__":
    main()
