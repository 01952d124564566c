"""Owns the rule that models of `transformers` are loaded one after the other in a process.

While it builds a model, the library replaces a method of the class that all models share and puts back what it found.
Where two loads overlap, the second finds the first one's stand-in and puts that back at the end, for good: from then on
no model of the process has its tied weights tied, and an output layer is left at random.
"""

from __future__ import annotations

import threading

ONE_AT_A_TIME = threading.Lock()
