"""python benchmarks/quickstart.py [SEEDS]   the quickstart over several study seeds: verdict, cost, against greedy.

Each seed is a whole `genopt optimize` in a process of its own on a copy of the study, so that time and memory are those
a newcomer sees. The best greedy configuration is taken over repetition penalties 1.0, 1.1, 1.2 and 1.3, on the very
rows that the seed holds out: it is chosen after the fact, which favours it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = Path(__file__).parents[1] / "studies" / "quickstart"
PENALTIES = (1.0, 1.1, 1.2, 1.3)


def greedy_scores(folder: Path) -> dict[float, dict[str, float]]:
    """Penalty -> example id -> objective of greedy decoding."""
    import genopt
    from genopt.spec.read import read_study

    spec = read_study(folder / "study.toml")
    goal = spec.goal()
    found: dict[float, dict[str, float]] = {}
    for penalty in PENALTIES:
        settings = {"decoding": "greedy", "temperature": 0.0, "repetition_penalty": penalty}
        measured = genopt.evaluate(spec, settings)
        found[penalty] = {str(row["id"]): goal.utility(row["metrics"]) for row in measured.rows}
    return found


def held_out(folder: Path, seed: int) -> list[str]:
    """The ids of the rows that a seed holds out."""
    from genopt import dataset
    from genopt.spec.read import read_study

    table = read_study(folder / "study.toml").dataset
    data = dataset.load(path=table.path, folder=folder, reference=table.reference, id=table.id)
    return [example.id for example in dataset.split(data.examples, holdout=table.fraction, seed=seed)[1]]


def run(folder: Path, seed: int) -> dict[str, float | str]:
    """One study from start to verdict; its verdict and what it took."""
    for old in folder.glob("*.db*"):
        old.unlink()
    command = [sys.executable, "-m", "genopt", "optimize", "study.toml", "--quiet", "--json", "--set", f"seed={seed}"]
    environment = os.environ | {"PYTHONPATH": str(STUDY.parents[1])}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    verdict = json.loads(done.stdout)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    took = {"wall": time.monotonic() - began, "cpu": cpu, "peak_gb": after.ru_maxrss / 2**20}
    return {**verdict, **took}


def main() -> None:
    """Print one line per seed and a summary."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "quickstart"
        shutil.copytree(STUDY, folder, ignore=shutil.ignore_patterns("*.db*", "__pycache__"))
        greedy = greedy_scores(folder)
        print(
            "seed  verdict    difference  95 % interval        p        "
            "winner  baseline  greedy  generations  wall  cpu"
        )
        rows = []
        for seed in seeds:
            found = run(folder, seed)
            ids = held_out(folder, seed)
            best = max(statistics.fmean(scores[name] for name in ids) for scores in greedy.values())
            low, high = found["interval"]
            print(
                f"{seed:>4}  {found['verdict']:<9}  {found['difference']:+.4f}     [{low:+.4f}, {high:+.4f}]"
                f"   {found['p_value']:.1e}  {found['winner_score'] or 0:.4f}  {found['baseline_score'] or 0:.4f}"
                f"    {best:.4f}  {found['search_generations'] + found['confirm_generations']:>11,}"
                f"  {found['wall']:4.0f}  {found['cpu']:4.0f}",
                flush=True,
            )
            rows.append((found, best))
        improved = sum(f["verdict"] == "improved" and f["p_value"] < 0.05 for f, _ in rows)
        beats = sum((f["winner_score"] or 0) > best for f, best in rows)
        print(
            f"improved with p < 0.05: {improved} of {len(rows)}; winner above the best greedy: {beats} of {len(rows)}"
        )
        walls = [f["wall"] for f, _ in rows]
        print(f"wall: median {statistics.median(walls):.0f} s; peak memory {max(f['peak_gb'] for f, _ in rows):.2f} GB")


if __name__ == "__main__":
    main()
