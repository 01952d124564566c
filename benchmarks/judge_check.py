"""How often `genopt judge check` catches a faulty judge, and how often it blames an honest one.

    python -m benchmarks.judge_check [--seeds 100]

Scripted judges of known faults, on 20 rows each; the lines by which they were named follow in brackets.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from scipy.stats import binomtest

from tests.test_judge_check import FAULTS, exam, failed

HONEST: dict[str, dict[str, Any]] = {
    "honest, without any noise": {"noise": 0.0, "unsteady": 0.0},
    "honest, noise 0.10": {},
    "honest, noise 0.15 and 0.10 more each time": {"noise": 0.15, "unsteady": 0.1},
    "honest, 2 % parse failures": {"parse_failure_rate": 0.02},
    "honest, leans to the first of two by 0.15": {"position_bias": 0.075},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    seeds = parser.parse_args().seeds
    cases = HONEST | {name: options for name, (options, _) in FAULTS.items()}
    cases |= {"prefers length, 0.3 per 100 words": {"length_bias": 0.3}}
    for name, options in cases.items():
        found = [exam(options, seed) for seed in range(seeds)]
        named = sum(not each.passed for each in found)
        interval = binomtest(named, seeds).proportion_ci(method="wilson")
        calls = sum(each.calls for each in found) / seeds
        lines = Counter(line for each in found for line in failed(each))
        told = ", ".join(f"{line} {count}" for line, count in lines.most_common())
        print(
            f"{name:45} named {named}/{seeds} [{interval.low:.2f}, {interval.high:.2f}], {calls:.0f} requests ({told})",
            flush=True,
        )


if __name__ == "__main__":
    main()
