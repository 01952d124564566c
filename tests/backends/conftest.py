"""The tiny models that the tests of the embedded engine share: made once, and never written to."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny_models


@pytest.fixture(scope="session")
def _libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An engine that is closed has garbage collected, which takes a third of a second where PyTorch is loaded: nearly
    all of it goes to looking at the libraries, which are no garbage and are set apart here."""
    tiny_models.make_llama(tmp_path_factory.mktemp("models") / "loads-the-libraries")
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def llama(_libraries: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def t5(_libraries: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_t5(tmp_path_factory.mktemp("models") / "t5")
