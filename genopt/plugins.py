"""Owns how a user's own code is found by name: "module:name", with the study file's folder on the import path."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from pathlib import Path
from typing import Any

from genopt.errors import SpecError
from genopt.spec.mistakes import hint


def load_object(name: str, folder: Path, *, key: str) -> Any:
    """The object that "module:name" names. Raises SpecError that says what was tried; `key` is where it was named."""
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or module_name.endswith(".py"):
        meant = module_name.removesuffix(".py").replace("/", ".").strip(".") or "my_file"
        raise SpecError(
            f'{key}: {name!r} is not "module:name". Write e.g. "{meant}:{attribute or "name"}" for what is called'
            f" {attribute or 'name'} in {meant.replace('.', '/')}.py, from the study file's folder"
        )
    if module_name.split(".")[0] != "genopt":  # our own must not find a torch.py that lies beside the study file
        _look_into(folder, module_name.split(".")[0])
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise SpecError(f"{key}: importing {module_name} failed: {error}. Install what it needs") from error
        raise SpecError(
            f"{key}: {name}: there is no module {module_name!r} in {folder} or among the installed ones. Check the name"
        ) from None
    except SystemExit as error:
        raise SpecError(
            f"{key}: importing {module_name} ended the program (exit code {error.code}). Put what it does as a script"
            ' under: if __name__ == "__main__"'
        ) from error
    except Exception as error:
        raise SpecError(
            f"{key}: importing {module_name} failed: {type(error).__name__}: {error}. Correct that module"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        known = [n for n in vars(module) if not n.startswith("_")]
        raise SpecError(f"{key}: {module_name} has no {attribute!r}.{hint(attribute, known)}") from None


def _look_into(folder: Path, package: str) -> None:
    """Put the folder first on the import path, and forget a module of that name from another study's folder."""
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]
    importlib.invalidate_caches()
    here = importlib.machinery.PathFinder.find_spec(package, [str(folder)])
    loaded = getattr(sys.modules.get(package), "__file__", None)
    if here is None or here.origin is None or loaded is None or Path(here.origin) == Path(loaded):
        return
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        del sys.modules[name]
