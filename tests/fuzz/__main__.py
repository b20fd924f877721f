"""The command line of the cases; see the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.harness import peak_memory, run_case, run_cases
from fuzz.kinds import KINDS


def main() -> None:
    """Run cases and print what came of them."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz")
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; none: all")
    parser.add_argument("--count", type=int, help="cases of each kind; by default as many as are promised")
    parser.add_argument("--only", type=int, help="one case")
    given = parser.parse_args()
    for kind in given.kinds or KINDS:
        case, promised, _ = KINDS[kind]
        if given.only is not None:
            print(kind, given.only, run_case(kind, case, given.only))
            continue
        count = given.count or promised
        outcomes = ", ".join(f"{number} {name}" for name, number in run_cases(kind, case, range(count)).most_common())
        print(f"{kind}: {count:,} cases: {outcomes}; {peak_memory():.0f} MB at most", flush=True)


if __name__ == "__main__":
    main()
