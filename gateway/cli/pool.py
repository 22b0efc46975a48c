"""gateway pool"""

import os
import sys


def command() -> None:
    """Become the pool program, which has its own settings and is not imported here."""
    os.execv(sys.executable, [sys.executable, "-m", "inference.pool"])  # noqa: S606 - our own interpreter
