"""Images of the rows: found beside the data, part of an example, on the message that asks, refused by blind engines."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from genopt import dataset
from genopt.errors import SpecError
from genopt.plan import Plan
from genopt.prepare import prepare
from genopt.prompt import Prompt
from genopt.spec.read import make_study
from genopt.store import Store
from genopt.types import Example, Message
from tests.studies import backend, run
from tests.toy import rows, study


def write(path: Path, content: bytes = b"pixels") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def load(folder: Path, *items: dict[str, Any], name: str = "data/rows.jsonl") -> dataset.Dataset:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return dataset.load(path=name, folder=folder, images="photo")


def test_paths_start_at_the_file_of_the_data(tmp_path: Path) -> None:
    cat, dog = write(tmp_path / "data/cat.png"), write(tmp_path / "data/more/dog.JPG")
    elsewhere = write(tmp_path / "elsewhere.webp")
    found = load(
        tmp_path,
        {"q": "one?", "photo": "cat.png"},
        {"q": "two?", "photo": ["cat.png", "more/dog.JPG"]},
        {"q": "far?", "photo": elsewhere},
        {"q": "none?", "photo": ""},
        {"q": "missing?"},
    )
    assert [example.images for example in found.examples] == [(cat,), (cat, dog), (elsewhere,), (), ()]
    assert found.examples[0].fields["photo"] == "cat.png"


def test_a_cell_of_a_table_holds_a_path_or_a_json_list(tmp_path: Path) -> None:
    cat, dog = write(tmp_path / "cat.png"), write(tmp_path / "dog.png")
    (tmp_path / "rows.csv").write_text('q,photo\none,cat.png\ntwo,"[""cat.png"", ""dog.png""]"\n')
    found = dataset.load(path="rows.csv", folder=tmp_path, images="photo")
    assert [example.images for example in found.examples] == [(cat,), (cat, dog)]


def test_rows_from_python_start_at_the_folder(tmp_path: Path) -> None:
    cat = write(tmp_path / "cat.png")
    found = dataset.load(rows=[{"q": "x", "look": {"at": "cat.png"}}], folder=tmp_path, images="look.at")
    assert found.examples[0].images == (cat,)


def test_every_wrong_image_is_told_with_its_line(tmp_path: Path) -> None:
    write(tmp_path / "data/notes.txt")
    write(tmp_path / "data/cat.png")
    with pytest.raises(SpecError) as error:
        load(
            tmp_path,
            {"q": "a", "photo": "cat.png"},
            {"q": "b", "photo": "dog.png"},
            {"q": "c", "photo": "notes.txt"},
            {"q": "d", "photo": 3},
            {"q": "e", "photo": "."},
            {"q": "f", "photo": "~nobody-of-that-name/x.png"},
        )
    told = error.value.problems
    assert told[0].startswith('data/rows.jsonl:2: there is no image "dog.png"') and str(tmp_path / "data") in told[0]
    assert 'no image "~nobody-of-that-name/x.png"' in told[-1]
    assert [line.partition(" is no path")[0] for line in told[1:-1]] == [
        'data/rows.jsonl:3: the image "notes.txt"',
        'data/rows.jsonl:4: the image "3"',
        'data/rows.jsonl:5: the image "."',
    ]


def test_a_column_that_no_row_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r'no column "photo" \(dataset\.images\)\. Did you mean "photos"'):
        load(tmp_path, {"q": "a", "photos": "x.png"})


def test_another_picture_under_the_same_name_is_another_example(tmp_path: Path) -> None:
    write(tmp_path / "data/cat.png", b"one")
    before = load(tmp_path, {"q": "a", "photo": "cat.png"})
    write(tmp_path / "data/cat.png", b"another")
    after = load(tmp_path, {"q": "a", "photo": "cat.png"})
    assert before.digest != after.digest
    write(tmp_path / "data/cat.png", b"one")
    assert dataset.example_digest(before.examples[0]) == dataset.example_digest(
        load(tmp_path, {"q": "a", "photo": "cat.png"}).examples[0]
    )
    plain = Example("1", {"q": "a"})
    assert dataset.example_digest(plain) != dataset.example_digest(
        Example("1", {"q": "a"}, images=before.examples[0].images)
    )


ASKED = Example("1", {"q": "what?"}, images=("/asked.png",))
SHOT = Example("2", {"q": "that?"}, ("this",), images=("/shot.png",))


def test_the_last_user_message_shows_them_and_a_shot_its_own() -> None:
    prompt = Prompt.from_parts(system="Look.", user="{{ q }}")
    assert prompt.render(ASKED, {}, [SHOT]) == (
        Message("system", "Look."),
        Message("user", "that?", ("/shot.png",)),
        Message("assistant", "this"),
        Message("user", "what?", ("/asked.png",)),
    )
    turns = Prompt.from_parts(
        messages=[
            {"role": "user", "content": "Look here"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "{{ q }}"},
        ]
    )
    assert [message.images for message in turns.render(ASKED, {})] == [(), (), ("/asked.png",)]


def test_rows_with_messages_show_them_on_their_last_question() -> None:
    def talk(*texts: str) -> list[dict[str, str]]:
        return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]

    asked = Example("1", {"messages": talk("a?", "b", "c?")}, images=("/asked.png",))
    shot = Example("2", {"messages": talk("d?")}, ("e",), images=("/shot.png",))
    found = Prompt(()).render(asked, {}, [shot])
    assert [(message.content, message.images) for message in found] == [
        ("d?", ("/shot.png",)), ("e", ()), ("a?", ()), ("b", ()), ("c?", ("/asked.png",)),
    ]  # fmt: skip


def seeing(folder: Path, *, sees: bool) -> dict[str, Any]:
    cat = write(folder / "cat.png")
    data = {"rows": [row | {"photo": cat} for row in rows(60)], "holdout": 0.4, "images": "photo"}
    return study(folder, dataset=data, backend=backend(images=sees, log=str(folder / "log")))


def test_a_model_that_does_not_see_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    async def opened() -> Plan:
        return await prepare(make_study(seeing(tmp_path, sees=False), folder=tmp_path))

    with pytest.raises(SpecError, match=r"dataset\.images: the model toy of toy does not see images"):
        asyncio.run(opened())
    assert not (tmp_path / "log").exists()


def test_every_request_of_a_study_shows_its_image(tmp_path: Path) -> None:
    assert run(seeing(tmp_path, sees=True), tmp_path).decided()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines and all(line["images"] == [str(tmp_path / "cat.png")] for line in lines)
    store = Store(f"sqlite:///{tmp_path / 'toy.db'}")
    assert {example.images for example, _ in store.examples(1)} == {(str(tmp_path / "cat.png"),)}
    store.close()
