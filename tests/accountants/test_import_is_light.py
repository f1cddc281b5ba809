"""Training code imports the accountants in every process: what is slow to import waits until it is needed.

Modules: accountants/__init__.py.
"""

import subprocess
import sys
from pathlib import Path

import accountants

HEAVY = ("torch", "scipy.stats", "dp_accounting")


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = f"import sys, accountants; print([name for name in {HEAVY!r} if name in sys.modules])"
    root = Path(accountants.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
