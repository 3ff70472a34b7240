"""`python -m tests.fuzz.files --count 2000`: files changed at random, given to every command that reads them.

A finding is a traceback, a hang, more than 2 GB of memory, an unknown exit code, or an answer other than
that of the unchanged files with exit code 0. Prints a line for each (--only CASE repeats it) and exits 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.fuzz.files.bench import TARGETS, Target, answer, in_copy, prepare
from tests.fuzz.files.child import MOST_MEMORY, Outcome, run
from tests.fuzz.files.mutate import mutate

KNOWN_CODES = (0, 1, 2, 3, 4, 5)
_EDITED = re.compile(r'"edits": \[\s*"')
"""`hwq inspect` tells what a changed project holds, and that it was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A case: what was changed and run, what the command said, and what is wrong with that or None."""

    case: int
    told: str
    said: str
    problem: str | None


def check(case: int, root: Path, answers: dict[str, str]) -> Finding:
    """One file of a copy of `root` changed, and a command run on it."""
    rng = random.Random(case)
    target = rng.choice(TARGETS)
    files = sorted({p for glob in target.files for p in root.glob(glob) if p.is_file()})
    chosen = rng.choice(files).relative_to(root)
    arguments = [str(chosen) if word == "{file}" else word for word in rng.choice(target.commands)]
    how = ""

    def work(folder: Path) -> Outcome:
        nonlocal how
        how = mutate(folder / chosen, rng)
        return run(arguments, folder)

    outcome = in_copy(root, work)
    told = f"{how} {chosen}: hwq {' '.join(arguments)}"
    problem = _problem(target, answers.get(" ".join(arguments)), outcome)
    return Finding(case=case, told=told, said=outcome.said, problem=problem)


def _problem(target: Target, want: str | None, outcome: Outcome) -> str | None:
    last = next((line for line in reversed(outcome.said.splitlines()) if line.strip()), "")
    if "Traceback (most recent call last)" in outcome.said:
        return f"a traceback: {last}"
    if outcome.hung:
        return "does not end"
    if outcome.peak > MOST_MEMORY:
        return f"takes {outcome.peak >> 20} MB"
    if outcome.code not in KNOWN_CODES:
        return f"exit code {outcome.code}: {last}"
    if outcome.code and not any(line.lower().startswith("error: ") for line in outcome.said.splitlines()):
        return f"exit code {outcome.code} without a line that says why"
    if outcome.code or not target.bound or want is None or _EDITED.search(outcome.said):
        return None
    return None if answer(outcome) == want else "another answer, exit code 0"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.files", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="changed files")
    parser.add_argument("--start", type=int, default=0, help="first case, to go on after an interruption")
    parser.add_argument("--only", type=int, help="one case by its number; says what the command said")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    cases = [options.only] if options.only is not None else range(options.start, options.count)
    started, bad = time.monotonic(), 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="hwq-fuzz-") as temporary:
        root = Path(temporary) / "base"
        root.mkdir()
        answers = prepare(root)
        with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
            found = pool.imap_unordered(partial(check, root=root, answers=answers), cases)
            for done, finding in enumerate(found, start=1):
                if finding.problem:
                    bad += 1
                    print(f"FAIL case {finding.case}: {finding.told}: {finding.problem}", flush=True)
                if options.only is not None:
                    print(finding.told, finding.said, sep="\n")
                if done % 50 == 0 or done == len(cases):
                    rate = (time.monotonic() - started) / done
                    print(f"{done}/{len(cases)} files, {bad} failing, {rate:.1f} s each", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
