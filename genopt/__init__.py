"""genopt: find the generation parameters that make a language model do your task best, and know whether the gain is
real.

    import genopt

    result = genopt.optimize("study.toml")
    result.verdict.verdict, result.params
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own would have to be loaded, before anything can see to it that Ctrl-C is quiet

if TYPE_CHECKING:
    from typing import Any

    from genopt.archive import Archive, load
    from genopt.confirm import Verdict
    from genopt.console import Console
    from genopt.errors import BackendError, GenoptError, MissingExtra, ScorerError, SpecError, StudyError
    from genopt.evaluation import evaluate
    from genopt.runner import Result, optimize, optimize_async
    from genopt.spec import StudySpec
    from genopt.spec.read import read_study
    from genopt.types import Backend, BackendInfo, Domain, Example, Generation, Message, Range, Request, Score, Scorer

__all__ = [
    "Archive",
    "Backend",
    "BackendError",
    "BackendInfo",
    "Console",
    "Domain",
    "Example",
    "Generation",
    "GenoptError",
    "Message",
    "MissingExtra",
    "Range",
    "Request",
    "Result",
    "Score",
    "Scorer",
    "ScorerError",
    "SpecError",
    "StudyError",
    "StudySpec",
    "Verdict",
    "evaluate",
    "load",
    "optimize",
    "optimize_async",
    "read_study",
]

_WHERE = {
    "genopt.archive": ("Archive", "load"),
    "genopt.confirm": ("Verdict",),
    "genopt.console": ("Console",),
    "genopt.errors": ("BackendError", "GenoptError", "MissingExtra", "ScorerError", "SpecError", "StudyError"),
    "genopt.evaluation": ("evaluate",),
    "genopt.runner": ("Result", "optimize", "optimize_async"),
    "genopt.spec": ("StudySpec",),
    "genopt.spec.read": ("read_study",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that `import genopt` and the command line start quickly."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(_MODULE_OF.get(name, "genopt.types")), name)
    raise AttributeError(f"module 'genopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
