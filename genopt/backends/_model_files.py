"""Owns what can be said of a model from its folder alone: whether it is one, and the digest of its content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from genopt.errors import SpecError

_HASH_WHOLE_BELOW = 200 * 2**20
_WORTH_TELLING = 10**8  # bytes
_TEXT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
)


def model_folder(name: str) -> Path | None:
    """The model's folder, None when the name is a hub id. Raises SpecError for a path that holds no model."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SpecError(
                f"backend.model: {name} holds no model: there is no config.json in it",
                hint="Name the folder that save_pretrained() or a download of the hub wrote",
            )
        return path
    if path.exists():
        raise SpecError(f"backend.model: {name} is a file. A model is a folder with config.json and weights")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise SpecError(f"backend.model: the folder {name} does not exist", hint="Check the path of the model")
    return None


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def loading(name: str) -> str:
    """What to tell people while this model is loaded; nothing where it takes no time. Raises SpecError for a path that
    holds no model."""
    folder = model_folder(name)
    if folder is None:
        return f"loading {name} from the hub or its copy here"
    size = sum(path.stat().st_size for path in weight_files(folder))
    return f"loading {name} ({size / 1e9:.1f} GB)" if size >= _WORTH_TELLING else ""


def digest(folder: Path, eos: tuple[int, ...]) -> str:
    """sha256 over configuration, tokenizer and weights; of big weights, the sizes and the first mebibyte of each.

    generation_config.json is left out: it holds the very parameters that are tuned. Its end tokens are counted.
    """
    weights = weight_files(folder)
    whole = sum(path.stat().st_size for path in weights) < _HASH_WHOLE_BELOW
    found = hashlib.sha256(json.dumps(eos).encode())
    for path in [folder / name for name in _TEXT_FILES if (folder / name).is_file()] + weights:
        found.update(f"{path.name}:{path.stat().st_size}".encode())
        with path.open("rb") as file:
            if whole or path not in weights:
                while block := file.read(2**20):
                    found.update(block)
            else:
                found.update(file.read(2**20))
    return found.hexdigest()
