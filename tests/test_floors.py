"""The floors: a file imports only from lower floors, and each heavy library from the one place that may have it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import genopt

ROOT = Path(genopt.__file__).parent

FLOORS: dict[int, str] = {
    0: "types errors events",
    1: "space canonical prompt presets _templates _turns metrics extract stats claims agreement racing race field twins"
    " fronts crossfit objectives lengths words worddiff surrogate geometry proposals handed measures",
    2: "spec",
    3: "_loading dataset _rows _examples database connections tables leases liveness migrations store writer plugins"
    " backends scorers",
    4: "study",
    5: "asking trial answers harvest meter schedule plan checks names rehearsal prepare output",
    6: "pace session recall heldout unanswered samples workers progress guards outcomes starts warm desk purse search"
    " finals pareto conclusions confirm fork runner"
    " evaluation rescore archive export observations report compare judging imported",
    7: "cli console dashboard template testing __main__ __init__",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}

# Library -> the files (or folders) that may import it at all.
OWNERS = {
    "optuna": ("study/",),
    "optuna_dashboard": ("dashboard/",),
    "torch": ("backends/", "scorers/_embed_local"),
    "transformers": ("backends/", "scorers/_embed_local"),
    "vllm": ("backends/",),
    "ray": ("backends/_ray_cluster",),
    "grpc": ("study/proxy",),
    "httpx": ("backends/_http",),
    "sentence_transformers": ("scorers/_embed_local",),
    "datasets": ("_rows",),
    "pyarrow": ("_rows",),
    "sqlalchemy": ("database", "connections", "tables", "leases", "migrations", "store", "study/"),
    "alembic": ("migrations",),
    "pydantic": ("spec/",),
    "click": ("cli/",),
    "rich": ("console",),
    "jinja2": ("_templates", "report/html"),
}
OPTIONAL = (
    *("torch", "transformers", "vllm", "ray", "grpc", "sentence_transformers", "datasets", "pyarrow"),
    "optuna_dashboard",
)
# Parts of the embedded engine's adapter: torch is all they are about, so only the adapter may import them, lazily.
PRIVATE = "backends/_hf_"
IMPURE = {"asyncio", "io", "logging", "os", "pathlib", "random", "socket", "subprocess", "threading", "time"}

LINES = 320


@dataclass(frozen=True)
class Import:
    """One import: who, what (dotted), on which line, and whether it happens when the file is loaded."""

    file: str
    module: str
    line: int
    eager: bool
    typing: bool

    def __str__(self) -> str:
        return f"genopt/{self.file}.py:{self.line} imports {self.module}"


def files() -> dict[str, Path]:
    """Every source file as `folder/name`, without the suffix; a package is its `folder/__init__`."""
    return {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted(ROOT.rglob("*.py"))}


def floor_of(file: str) -> int:
    return FLOOR_OF[file.split("/")[0]]


def imports_of(file: str, tree: ast.Module) -> Iterator[Import]:
    """The imports of a file, with where each takes effect."""

    def walk(node: ast.AST, eager: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(file, alias.name, child.lineno, eager, typing)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"genopt/{file}.py:{child.lineno} imports relatively"
                for alias in child.names:
                    yield Import(file, f"{child.module}.{alias.name}", child.lineno, eager, typing)
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield from walk(child, False, typing)
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                for part in child.body:
                    yield from walk(ast.Module([part], []), False, True)
                for part in child.orelse:
                    yield from walk(ast.Module([part], []), eager, typing)
            else:
                yield from walk(child, eager, typing)

    return walk(tree, True, False)


FILES = files()
TREES = {file: ast.parse(path.read_text(encoding="utf-8")) for file, path in FILES.items()}
IMPORTS = [found for file, tree in TREES.items() for found in imports_of(file, tree)]


def target_of(module: str) -> str | None:
    """The file that an import of ours loads; None for another library's. `genopt.a.b` may name a thing in `a`."""
    parts = module.split(".")
    if parts[0] != "genopt":
        return None
    rest = parts[1:]
    while rest:
        name = "/".join(rest)
        if name in FILES:
            return name
        if f"{name}/__init__" in FILES:
            return f"{name}/__init__"
        rest = rest[:-1]
    return "__init__"


def belongs(file: str, places: tuple[str, ...]) -> bool:
    return any(file.startswith(place) if place.endswith("/") else file == place for place in places)


def test_every_file_stands_on_a_floor() -> None:
    unknown = [file for file in FILES if file.split("/")[0] not in FLOOR_OF]
    assert not unknown, f"no floor is named for {unknown}"


def test_the_guide_to_contributing_shows_the_same_floors() -> None:
    guide = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = {int(floor): names for floor, names in re.findall(r"^\| (\d) \| `(.+?)` \|", guide, re.MULTILINE)}
    public = {floor: [name for name in names.split() if not name.startswith("_")] for floor, names in FLOORS.items()}
    folders = {file.split("/")[0] for file in FILES if "/" in file}
    assert shown == {
        floor: " ".join(f"{name}/" if name in folders else name for name in names) for floor, names in public.items()
    }


def test_no_file_imports_from_a_higher_floor() -> None:
    wrong = [
        f"{found} (floor {floor_of(found.file)} from floor {floor_of(target)})"
        for found in IMPORTS
        if (target := target_of(found.module)) is not None and floor_of(target) > floor_of(found.file)
    ]
    assert not wrong, "\n".join(wrong)


def test_files_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {file: set() for file in FILES}
    for found in IMPORTS:
        target = target_of(found.module)
        if target is not None and target != found.file:
            graph[found.file].add(target)
    done: set[str] = set()

    def visit(file: str, path: tuple[str, ...]) -> None:
        assert file not in path, " -> ".join([*path[path.index(file) :], file])
        if file not in done:
            for target in sorted(graph[file]):
                visit(target, (*path, file))
            done.add(file)

    for file in FILES:
        visit(file, ())


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_only_by_its_owner(library: str) -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if found.module.split(".")[0] == library and not belongs(found.file, OWNERS[library])
    ]
    assert not wrong, "\n".join(wrong)


def test_optional_libraries_are_imported_when_needed_and_not_before() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if found.eager and found.module.split(".")[0] in OPTIONAL and not found.file.startswith(PRIVATE)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_parts_of_the_embedded_engine_are_loaded_by_its_adapter_alone() -> None:
    reached = [found for found in IMPORTS if (target_of(found.module) or "").startswith(PRIVATE)]
    assert reached
    wrong = [
        str(found)
        for found in reached
        if not found.file.startswith(PRIVATE) and (found.eager or found.file != "backends/transformers")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_pure_floors_import_nothing_that_touches_the_world() -> None:
    wrong = [str(found) for found in IMPORTS if floor_of(found.file) <= 1 and found.module.split(".")[0] in IMPURE]
    assert not wrong, "\n".join(wrong)


def test_the_library_never_prints() -> None:
    wrong = [
        f"genopt/{file}.py:{node.lineno}"
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong, wrong


def test_every_file_says_what_it_owns() -> None:
    silent = [file for file, tree in TREES.items() if not ast.get_docstring(tree)]
    assert not silent, silent


def test_files_are_short() -> None:
    lines = {file: len(path.read_text(encoding="utf-8").splitlines()) for file, path in FILES.items()}
    long = {file: n for file, n in lines.items() if n > LINES}
    assert not long, long


def test_the_reader_of_imports_sees_through_functions_and_typing_blocks() -> None:
    source = (
        "import os\nfrom genopt import space as s\nif TYPE_CHECKING:\n    from genopt.runner import run\n"
        "def f():\n    import torch\nclass A:\n    import json\ntry:\n    import numpy\nexcept ImportError: ...\n"
    )
    found = {i.module: (i.eager, i.typing) for i in imports_of("x", ast.parse(source))}
    assert found == {
        "os": (True, False),
        "genopt.space": (True, False),
        "genopt.runner.run": (False, True),
        "torch": (False, False),
        "json": (True, False),
        "numpy": (True, False),
    }
    assert target_of("genopt.runner.run") == "runner"
    assert target_of("genopt.spec.StudySpec") == "spec/__init__"
    assert target_of("genopt.optimize") == "__init__"
    assert target_of("optuna") is None
