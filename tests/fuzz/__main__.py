"""`python -m tests.fuzz --count 500 --seed 0`: random graphs and torch networks through the whole route.

Prints one reproduction line for every failing seed and exits 1. Resumable: --start goes on from there.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tests.fuzz.check import Finding, check_seed


def _seeds(seed: int, start: int, count: int) -> Iterator[int]:
    """Case i of a campaign: seed * 1,000,000 + i."""
    for index in range(start, count):
        yield seed * 1_000_000 + index


def _report(finding: Finding, kind: str) -> None:
    print(f"FAIL case {finding.case}: {finding.problem}")
    print(f"  reproduce: python -m tests.fuzz --only {finding.case} --kind {kind} --keep DIR", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="cases of the campaign")
    parser.add_argument("--seed", type=int, default=0, help="number of the campaign")
    parser.add_argument("--start", type=int, default=0, help="first case, to go on after an interruption")
    parser.add_argument("--only", type=int, help="one case by its number")
    parser.add_argument("--kind", choices=["mixed", "graph", "torch"], default="mixed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="write the projects there and keep them")
    options = parser.parse_args()
    cases = [options.only] if options.only is not None else []
    cases = cases or list(_seeds(options.seed, options.start, options.count))
    started, bad, done = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="hwq-fuzz-") as temporary:
        os.environ["XDG_CACHE_HOME"] = temporary  # the user's cache stays as it is
        root = options.keep or Path(temporary)
        pool = ProcessPoolExecutor(options.jobs)
        keep = options.keep is not None
        waiting = {
            pool.submit(check_seed, case, options.kind, root / str(case), keep=keep): case for case in cases
        }
        try:
            for future in as_completed(waiting):
                done += 1
                finding = future.result()
                if finding is not None:
                    bad += 1
                    _report(finding, options.kind)
                if done % 10 == 0 or done == len(cases):
                    rate = (time.monotonic() - started) / done
                    print(f"{done}/{len(cases)} cases, {bad} failing, {rate:.1f} s each", flush=True)
        except KeyboardInterrupt:
            first = min((case for future, case in waiting.items() if not future.done()), default=0)
            pool.shutdown(wait=False, cancel_futures=True)
            print(f"interrupted; go on with --seed {options.seed} --start {first % 1_000_000}")
            return 130
        pool.shutdown()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
