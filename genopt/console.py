"""Owns how a running study looks on a terminal: one live line and a line per event, all on stderr. Where stderr is no
terminal, plain lines at a calmer pace."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console as Rich
from rich.live import Live
from rich.text import Text

from genopt.events import Event, Note, Progress, StageStarted, TrialDone
from genopt.words import brief, duration, safe, score

PLAIN_EVERY = 15.0  # seconds between progress lines where nothing is live

ENGINE = {
    "running": "{:.0f} running",
    "waiting": "{:.0f} waiting",
    "prefix_hits": "prefix hits {:.0%}",
    "kv_cache": "KV cache {:.0%}",
}
KNOWN_SHOWN = 3
STAGES = {
    "baseline": "Baseline",
    "search": "Search",
    "finalists": "Finalists",
    "confirm": "Holdout",
}


class Console:
    """A listener that draws on `stream` (default: stderr); as a context manager it keeps one line live."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._rich = Rich(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._live: Live | None = None
        self._last = -PLAIN_EVERY
        self._known = 0  # proposals in a row that were known already

    def __enter__(self) -> Console:
        if self._rich.is_terminal and not self._quiet:
            self._live = Live(Text(""), console=self._rich, refresh_per_second=5, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if self._quiet:
            return
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Note):
            self._line(
                ("warning: " if event.level == "warning" else "") + event.text, "yellow" * (event.level != "info")
            )
        elif isinstance(event, StageStarted) and event.stage in STAGES:
            self._last = time.monotonic()  # its first generation is no progress worth a line
            planned = f" (at most {event.planned:,} generations)" if event.planned else ""
            self._line(f"{STAGES[event.stage]}: {event.detail}{planned}", "bold")
        elif isinstance(event, TrialDone):
            self._trial(event)

    def _line(self, text: str, style: str = "") -> None:
        self._rich.print(Text(safe(text), style=style or ""))

    def _trial(self, event: TrialDone) -> None:
        self._known = self._known + 1 if event.outcome == "duplicate" else 0
        if self._known > KNOWN_SHOWN:  # of a small space the end is nothing else
            return
        name = "baseline " if event.baseline else f"trial {event.number:>3}"
        if event.outcome == "failed":
            self._line(f"{name}  failed  {brief(event.params)}", "red")
            return
        what = {"stopped early": f"stopped at {event.n}/{event.of}", "duplicate": "known already"}.get(
            event.outcome, ""
        )
        marks = "  ".join(filter(None, ["best" if event.best else "", what, event.why]))
        self._line(
            f"{name}  {score(event.mean, event.se)}  {brief(event.params)}{'  ' + marks if marks else ''}",
            "green" * event.best,
        )

    def _progress(self, event: Progress) -> None:
        now = time.monotonic()
        if self._live is None and now - self._last < PLAIN_EVERY:
            return
        self._last = now
        budget = f"/{event.trial_budget}" if event.trial_budget else ""
        parts = [
            f"{STAGES.get(event.stage, event.stage)} {event.fraction:4.0%}",
            f"trials {event.trials}{budget}",
            f"{event.generations:,} generations ({event.generations_per_second:,.0f}/s)",
            f"{event.tokens:,} tokens ({event.tokens_per_second:,.0f}/s)",
        ]
        if event.best is not None:
            mean, low, high = event.best
            parts.insert(2, f"best {mean:.4f} [{low:.4f}, {high:.4f}]")
        if event.seconds_left is not None:
            parts.append(f"{duration(event.seconds_left)} left")
        parts += [shape.format(event.engine[name]) for name, shape in ENGINE.items() if name in event.engine]
        line = " | ".join(parts)
        if self._live is not None:
            self._live.update(Text(line, style="cyan", overflow="ellipsis", no_wrap=True))
        else:
            self._line(line)
