"""The contracts of the two seams as test classes: an adapter's test inherits one and overrides what makes it.

    class TestMyBackend(BackendContract):
        def backend(self) -> Backend:
            return MyBackend(model="tiny", options={})

pytest is needed to run them, and no plug-in of pytest's.
"""

from genopt.testing.backend import GREEDY, HOT, PROBES, BackendContract, Probe, Scenario, middle
from genopt.testing.scorer import ScorerContract, written

__all__ = [
    "GREEDY",
    "HOT",
    "PROBES",
    "BackendContract",
    "Probe",
    "Scenario",
    "ScorerContract",
    "middle",
    "written",
]
