"""Break the code where money moves, one small change at a time, and see whether a test notices.

    python -m tests.mutation [--sample 60] [--seed 1] [--only 0005]

Run by hand: each mutant runs the tests of its file in a copy of the checkout, in a temporary folder. What survives is
printed and has to be looked at: it is either a missing test or a change that changes nothing. Exits with 1 if any did.
"""

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("billing", "gateway", "inference", "migrations", "tests", "pyproject.toml", "README.md")
MUTANT_TIMEOUT_SECONDS = 300

_FOLDER = "tests/billing/test_"
TESTS = {
    "migrations/sql/0001_billing_holds.sql": ("holds", "books_machine", "concurrency"),
    "migrations/sql/0001_billing_wallets.sql": ("wallets", "books_machine"),
    "migrations/sql/0004_payments_postings.sql": ("books_machine", "refunds_and_disputes", "promotions"),
    "migrations/sql/0005_credits_functions.sql": ("promotions", "notices", "ledger", "books_machine"),
    "billing/pricing.py": ("pricing",),
    "billing/money.py": ("money",),
    "billing/reports.py": ("reports",),
}
"""Where money moves, and the tests that should notice."""

CHANGES: Sequence[tuple[str, str]] = (
    (r" <= ", " < "),
    (r" < ", " <= "),
    (r" >= ", " > "),
    (r"(?<!-) > ", " >= "),
    (r" <> ", " = "),
    (r" \+ ", " - "),
    (r" - (?!>)", " + "),
    (r" AND ", " OR "),
    (r" OR ", " AND "),
    (r"\bNOT ", ""),
    (r"\bIS NULL\b", "IS NOT NULL"),
    (r"\bleast\(", "greatest("),
    (r"\bgreatest\(", "least("),
    (r"\b-amount\b", "amount"),
    (r", (\d+), ", ", 3, "),
    (r"\bIS NOT NULL\b", "IS NULL"),
    (r" // ", " / "),
    (r"^( +)(PERFORM|UPDATE|EXIT|NEW\.|free :=|balances\[|helds\[|key_)[^;]*;$", r"\1NULL;"),
)
_NO_CODE = re.compile(r'^\s*(--|#|"""|SET |GRANT|REVOKE|CREATE|LANGUAGE)|PRIMARY KEY|"""|^from |^import ')
_NO_SHRINKING = """
from hypothesis import Phase, settings
settings.register_profile("mutation", phases=[Phase.explicit, Phase.generate], max_examples=40)
settings.load_profile("mutation")
"""


@dataclass(frozen=True)
class Mutant:
    """One change of one line."""

    path: str
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n  - {self.before.strip()}\n  + {self.after.strip()}"


def mutants(path: str) -> Iterator[Mutant]:
    """Every change of the table that fits a line of the file."""
    for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
        if _NO_CODE.search(line):
            continue
        for pattern, replacement in CHANGES:
            for found in re.finditer(pattern, line):
                after = line[: found.start()] + found.expand(replacement) + line[found.end() :]
                if after != line:
                    yield Mutant(path, number, line, after)


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether all tests of the mutant's file pass in `folder` with the change made; puts the line back."""
    target = folder / mutant.path
    original = target.read_text()
    lines = original.splitlines(keepends=True)
    lines[mutant.line - 1] = mutant.after + "\n"
    target.write_text("".join(lines))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *_tests_of(mutant.path)]
    try:
        ended = subprocess.run(command, cwd=folder, check=False, capture_output=True, timeout=MUTANT_TIMEOUT_SECONDS)
        return ended.returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        target.write_text(original)


def _tests_of(path: str) -> list[str]:
    return [f"{_FOLDER}{name}.py" for name in TESTS[path]]


def copy_to(folder: Path) -> None:
    """A copy of what the tests need; Hypothesis tries less there, and does not shrink what nobody reads."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "checkpoint*"))
        else:
            shutil.copy(source, folder / part)
    with (folder / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(_NO_SHRINKING)


def main() -> int:
    """Make mutants, run tests, name survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0, help="how many mutants, chosen at random; 0 for all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only files whose path contains this")
    options = parser.parse_args()
    found = [mutant for path in TESTS if options.only in path for mutant in mutants(path)]
    chosen = random.Random(options.seed).sample(found, options.sample) if options.sample else found
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mutation") as name:
        folder = Path(name)
        copy_to(folder)
        for path in {mutant.path for mutant in chosen}:
            subprocess.run([sys.executable, "-m", "pytest", "-x", "-q", *_tests_of(path)], cwd=folder, check=True)
        for number, mutant in enumerate(chosen, 1):
            alive = survives(mutant, folder)
            print(f"{number}/{len(chosen)} {'SURVIVED' if alive else 'killed'} {mutant}", flush=True)
            survivors += [mutant] if alive else []
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed ({len(found)} are possible)")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
