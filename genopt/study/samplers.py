"""Owns which Optuna sampler proposes, and makes every proposal a function of (study seed, proposal number, history)."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from genopt.errors import SpecError
from genopt.geometry import Live
from genopt.space import SearchSpace
from genopt.study.hgp import HgpSampler

HGP_TRIALS = 1000  # beyond, it models a sample of the trials, and asking takes longer
PROPOSAL = "proposal"


@dataclass(frozen=True, slots=True)
class SamplerChoice:
    """The sampler a study uses and why."""

    name: str
    why: str


def choose_sampler(wanted: str, space: SearchSpace, *, trials: int | None, several: bool) -> SamplerChoice:
    """The sampler behind `search.sampler`. Raises SpecError when it cannot work on this space.

    `auto`: `hgp` for one objective, since it is told how sure each value is and sees inside switches; on problems with
    a known truth it is ahead of independent TPE in switches and level with it elsewhere (benchmarks/README.md). Optuna
    5's own default (multivariate TPE) over-exploits mixed spaces and ends about where random search does.
    """
    torch = importlib.util.find_spec("torch") is not None
    if wanted == "gp":
        if space.conditional():
            raise SpecError(
                "search.sampler: gp draws the parameters inside a switch at random. Use tpe or auto, or drop the switch"
            )
        if not torch:
            raise SpecError('search.sampler: gp needs PyTorch. Use tpe or auto, or: pip install "genopt[transformers]"')
    if wanted != "auto":
        return SamplerChoice(wanted, "named in the study file")
    if several:
        return SamplerChoice("tpe", "several objectives")
    if trials is not None and trials > HGP_TRIALS:
        return SamplerChoice("tpe", f"more than {HGP_TRIALS:,} trials")
    return SamplerChoice("hgp", "one objective: it weighs each value by how sure it is")


def make_sampler(name: str, seed: int) -> BaseSampler:
    """A fresh Optuna sampler; a grid's trials bring their values with them, so its sampler is never asked."""
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=True)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=10, warn_independent_sampling=False)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=16)
    return optuna.samplers.RandomSampler(seed=seed)


def maker(name: str, seed: int, space: SearchSpace, live: Live | None = None) -> Callable[[int], BaseSampler]:
    """What makes the sampler of each proposal of a study with this seed. What hgp works out once is kept in between."""
    if name == "hgp":
        from genopt.proposals import Proposer  # who only reads a study need not wait for its arithmetic

        proposer = Proposer(space, live)
        return lambda proposal: HgpSampler(proposer, proposal_seed(seed, proposal))
    return lambda proposal: make_sampler(name, proposal_seed(seed, proposal))


def proposal_seed(study_seed: int, proposal: int) -> int:
    """The seed of one proposal, in [0, 2**32)."""
    return int.from_bytes(hashlib.blake2b(f"propose {study_seed} {proposal}".encode(), digest_size=4).digest())


class SeededSampler(BaseSampler):
    """A sampler that begins anew for every trial, from a seed that the trial's proposal number gives.

    A resumed study therefore proposes what an undisturbed one would, as far as its history is the same; a trial that is
    asked again after a crash carries its old proposal number and so gets its old values.
    """

    def __init__(self, make: Callable[[int], BaseSampler]) -> None:
        self._make = make
        self._inner = make(0)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._inner = self._make(int(trial.user_attrs.get(PROPOSAL, trial.number)))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._inner.after_trial(study, trial, state, values)
