"""python -m benchmarks.search.report RESULTS [--plots FOLDER]   the tables of benchmarks/README.md, from the outcomes.

Points are hundredths of a score. Every mean stands with its 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.search.intervals import Estimate, mean, rate
from benchmarks.search.outcomes import read
from benchmarks.search.table import FOLDER, load, names

FULL = "full grid / llmsearch"
NEAR = 0.1  # points: as good as the full grid is whose mean regret is above its by no more
STOPPED = "genopt, gain_below "
Lines = list[dict[str, Any]]
Curves = Mapping[tuple[str, str], Mapping[float, Lines]]  # (table, policy) -> budget -> outcomes


def curves(results: Path) -> Curves:
    """The outcomes by table and policy, then budget."""
    found: dict[tuple[str, str], dict[float, Lines]] = defaultdict(lambda: defaultdict(list))
    for line in read(results):
        found[line["table"], line["policy"]][line["budget"]].append(line)
    return found


def figure(lines: Lines, name: str) -> Estimate:
    """The mean of one quantity over seeds."""
    return mean([line[name] for line in lines])


def recorded() -> Iterator[str]:
    """What the tables are."""
    yield "| table | what | configurations x examples x samples | engine | best | baseline | kB |"
    yield "|---|---|---|---|---|---|---|"
    for name in names():
        table = load(name)
        size = sum((FOLDER / f"{name}.{end}").stat().st_size for end in ("json", "parquet"))
        shape = " x ".join(str(n) for n in table.utility.shape)
        engine = f"{table.about['engine']['engine']} {table.about['engine']['version']}"
        truth = f"{100 * table.truth.max():.1f} | {100 * table.truth[table.baseline]:.1f}"
        yield f"| {name} | {table.about['about']} | {shape} | {engine} | {truth} | {size / 1000:.0f} |"


def summary(found: Curves, share: float) -> Iterator[str]:
    """Regret / optimism at one budget: a row for each policy, a column for each table; (seeds) behind the name."""
    tables = sorted({table for table, _ in found})
    yield f"| at {share:.0%} | " + " | ".join(tables) + " |"
    yield "|---" * (1 + len(tables)) + "|"
    for policy in sorted({policy for _, policy in found if not policy.startswith(STOPPED)}):
        cells, seeds = [], []
        for table in tables:
            lines = found.get((table, policy), {}).get(share, [])
            seeds += [len(lines)] if lines else []
            both = [plus_minus(figure(lines, name)) for name in ("regret", "optimism")] if lines else [""]
            cells.append(both[-1] if table == "flat" else " / ".join(both))
        if any(cells):
            count = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
            yield f"| {policy} ({count}) | " + " | ".join(cells) + " |"


def plus_minus(found: Estimate) -> str:
    """`value ±half`."""
    return f"{found.value:.2f} ±{found.half:.2f}"


def spent(found: Curves) -> Iterator[str]:
    """What the policies really paid, in % of the full grid's calls: the mean over tables at each budget."""
    budgets = sorted({share for at in found.values() for share in at})
    yield "| policy | " + " | ".join(f"{share:.0%}" for share in budgets) + " |"
    yield "|---" * (1 + len(budgets)) + "|"
    for policy in sorted({policy for _, policy in found if not policy.startswith(STOPPED)}):
        cells = []
        for share in budgets:
            lines = [line for (_, other), at in found.items() if other == policy for line in at.get(share, [])]
            cells.append(f"{100 * figure(lines, 'share').value:.0f}" if lines else "")
        yield f"| {policy} | " + " | ".join(cells) + " |"


def tokens_to(found: Curves) -> Iterator[str]:
    """Tokens of the cheapest studies, from their first to the verdict's last, of which the mean regret is that of the
    full grid, or above it by NEAR at most; and how many times fewer than its. Every budget has studies of its own;
    between two budgets the straight line counts."""
    yield "| table | full grid's regret | policy | tokens | calls, of the full grid's | times fewer tokens than it |"
    yield "|---|---|---|---|---|---|"
    for table in sorted({table for table, _ in found}):
        if table == "flat" or (table, FULL) not in found:
            continue
        whole = found[table, FULL][1.0]
        wanted, paid = figure(whole, "regret").value, figure(whole, "tokens").value
        for (other, policy), at in sorted(found.items()):
            if other != table or policy == FULL or policy.startswith(STOPPED):
                continue
            reached = crossing(at, wanted + NEAR)
            if reached is None:
                yield f"| {table} | {wanted:.2f} | {policy} | not reached at {max(at):.0%} | | |"
            else:
                tokens, share, least = reached
                sign = "at most " if least else ""
                times = f"{'at least ' if least else ''}{paid / tokens:.1f}"
                yield f"| {table} | {wanted:.2f} | {policy} | {sign}{tokens:,.0f} | {sign}{share:.1%} | {times} |"


@dataclass(frozen=True)
class Early:
    """Studies of one table that ended early, against the same studies without it, paired by seed."""

    table: str
    gain_below: str
    studies: int
    calls: Estimate
    saved: Estimate
    lost: Estimate


def ended_early(found: Curves, share: float = 0.35) -> Iterator[Early]:
    """What ending early saves (% of the calls) and loses (points of regret)."""
    for (table, policy), at in sorted(found.items()):
        if not policy.startswith(STOPPED):
            continue
        whole = {line["seed"]: line for line in found.get((table, "genopt"), {}).get(share, [])}
        pairs = [(line, whole[line["seed"]]) for line in at.get(share, []) if line["seed"] in whole]
        if pairs:
            yield Early(
                table,
                policy.removeprefix(STOPPED),
                len(pairs),
                calls=mean([100 * early["share"] for early, _ in pairs]),
                saved=mean([100 * (1 - early["share"] / late["share"]) for early, late in pairs]),
                lost=mean([early["regret"] - late["regret"] for early, late in pairs]),
            )


def stopped(found: Curves) -> Iterator[str]:
    """The same as a table."""
    yield "| table | gain_below | studies | calls, % of the full grid | saved, % of the calls | regret lost, points |"
    yield "|---|---|---|---|---|---|"
    for early in ended_early(found):
        saved = f"{early.saved.value:.0f} ±{early.saved.half:.0f}"
        cells = [early.table, early.gain_below, str(early.studies), f"{early.calls.value:.1f}", saved]
        yield "| " + " | ".join([*cells, plus_minus(early.lost)]) + " |"


def false_claims(found: Curves) -> Iterator[str]:
    """How often something is claimed on the flat table, where nothing is to be found (Clopper and Pearson)."""
    yield "| policy | budget | studies | claims of an improvement | rate |"
    yield "|---|---|---|---|---|"
    for (table, policy), at in sorted(found.items()):
        if table == "flat" and (policy == FULL or policy.startswith("genopt")):
            for share, lines in sorted(at.items()):
                hits = sum(line["claimed"] for line in lines)
                yield f"| {policy} | {share:.0%} | {len(lines)} | {hits} | {rate(hits, len(lines)).shown(3)} |"


def crossing(at: Mapping[float, Lines], wanted: float) -> tuple[float, float, bool] | None:
    """Tokens and calls (as a share) at which the mean regret first falls to `wanted`, between budgets by a straight
    line; and whether that is the smallest budget, so that less may do."""
    before: tuple[float, float, float] | None = None
    for share in sorted(at):
        regret, tokens, calls = (figure(at[share], name).value for name in ("regret", "tokens", "share"))
        if regret <= wanted:
            if before is None:
                return tokens, calls, True
            part = (before[0] - wanted) / (before[0] - regret)
            return before[1] + part * (tokens - before[1]), before[2] + part * (calls - before[2]), False
        before = (regret, tokens, calls)
    return None


def plot(found: Curves, quantity: str, path: Path) -> None:
    """Mean regret (or optimism) over the budget, a panel for each table."""
    pyplot = _pyplot()
    tables = sorted({table for table, _ in found if table != "flat" or quantity != "regret"})
    columns = 3
    rows = -(-len(tables) // columns)
    shown, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False, sharex=True)
    policies = sorted({policy for _, policy in found if not policy.startswith(STOPPED)})
    for panel, table in zip(axes.flat, tables, strict=False):
        for number, policy in enumerate(policies):
            at = found.get((table, policy))
            if at is None:
                continue
            shares = sorted(at)
            means = [figure(at[share], quantity) for share in shares]
            calls = [100 * figure(at[share], "share").value for share in shares]
            ours = policy.startswith("genopt")
            values = [m.value for m in means]
            style = {"marker": "o" if ours else ".", "linewidth": 2.5 if ours else 1}
            panel.plot(calls, values, color=f"C{number % 10}", label=policy, **style)  # type: ignore[arg-type]
        panel.axhline(1.0, color="0.7", linewidth=0.8)
        panel.axvline(35, color="0.7", linewidth=0.8)
        panel.set(title=table, xscale="log", xlabel="calls, % of the full grid", ylabel=f"{quantity}, points")
        if quantity == "optimism":
            panel.axhline(-1.0, color="0.7", linewidth=0.8)
            panel.set_ylim(-3, 12)
        else:
            panel.set_ylim(0, None)
    for panel in list(axes.flat)[len(tables) :]:
        panel.axis("off")
    handles, labels = max((panel.get_legend_handles_labels() for panel in axes.flat), key=lambda both: len(both[0]))
    shown.legend(handles, labels, loc="lower center", ncols=4, fontsize=8)
    shown.tight_layout(rect=(0, 0.06 + 0.02 * len(labels) / 4, 1, 1))
    shown.savefig(path, metadata={"Date": None})
    pyplot.close(shown)


def plot_stopping(found: Curves, path: Path) -> None:
    """Regret lost over calls saved, a line for each table, a point for each `gain_below`."""
    pyplot = _pyplot()
    shown, panel = pyplot.subplots(figsize=(7, 4))
    every = list(ended_early(found))
    for table in sorted({early.table for early in every}):
        line = sorted((early for early in every if early.table == table), key=lambda early: float(early.gain_below))
        panel.errorbar(
            [early.saved.value for early in line],
            [early.lost.value for early in line],
            xerr=[early.saved.half for early in line],
            yerr=[early.lost.half for early in line],
            marker="o",
            capsize=2,
            label=table,
        )
        for early in line:
            place = (early.saved.value, early.lost.value)
            panel.annotate(early.gain_below, place, xytext=(4, 4), textcoords="offset points", fontsize=6)
    panel.axhline(0, color="0.7", linewidth=0.8)
    panel.set(xlabel="calls saved, %", ylabel="regret lost, points", title="stop_when, by gain_below")
    panel.legend(fontsize=8)
    shown.tight_layout()
    shown.savefig(path, metadata={"Date": None})
    pyplot.close(shown)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.fonttype"] = "none"  # texts as texts: small, and found by a search
    return pyplot


def main() -> None:
    """Print every table; draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--plots", type=Path, help="folder for the plots search_*.svg")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.35, 1.0])
    given = parser.parse_args()
    found = curves(given.results)
    print("\n".join(recorded()))
    for share in given.budgets:
        print("\n" + "\n".join(summary(found, share)))
    print("\n" + "\n".join(spent(found)))
    print("\n### false claims\n")
    print("\n".join(false_claims(found)))
    print("\n### stopping early\n")
    print("\n".join(stopped(found)))
    print("\n### tokens\n")
    print("\n".join(tokens_to(found)))
    if given.plots:
        for quantity in ("regret", "optimism"):
            plot(found, quantity, given.plots / f"search_{quantity}.svg")
        plot_stopping(found, given.plots / "search_stopping.svg")


if __name__ == "__main__":
    main()
