"""How OpenMP's threads wait, settled before torch is imported: the one place of the library that sets an environment
variable, since OpenMP reads it once, when it is loaded.

Threads that spin while they wait make two busy processes on one machine several times slower (docs/results.md). A
user's own setting stays; where the caller imported torch before, it is too late, and nothing is changed.
"""

import os
import sys

VARIABLE = "OMP_WAIT_POLICY"


def wait_passively() -> None:
    """Let idle threads sleep, unless the user has said otherwise or torch is loaded already."""
    if "torch" not in sys.modules:
        os.environ.setdefault(VARIABLE, "passive")
