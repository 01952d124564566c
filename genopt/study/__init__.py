"""The only folder that imports Optuna: a study that is asked for configurations and told what they were worth."""

from genopt.study.catalogue import StudySummary, copy_trials, list_studies, read_studies, remove_study
from genopt.study.live import AtWork, at_work
from genopt.study.queue import Budget, Claims, Later
from genopt.study.samplers import SamplerChoice, choose_sampler
from genopt.study.study import Asked, Study, TrialRecord, open_study

__all__ = [
    "Asked",
    "AtWork",
    "Budget",
    "Claims",
    "Later",
    "SamplerChoice",
    "Study",
    "StudySummary",
    "TrialRecord",
    "at_work",
    "choose_sampler",
    "copy_trials",
    "list_studies",
    "open_study",
    "read_studies",
    "remove_study",
]
