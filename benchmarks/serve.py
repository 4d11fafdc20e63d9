"""The page of `inlay serve` under many visitors at once, and what it keeps of them in memory.

A model without weights (a millisecond a token) repeats the marked words of its conversation, behind
the page as `inlay serve` serves it, in a process of its own. Visitors speak with it over HTTP as
browsers do. Each asks the next thing when it has its answer, or leaves in the middle of a long one;
who is refused, since too many wait, tries again after a moment. A conversation must hold its
visitor's own words, all of them, and nobody else's.

    python benchmarks/serve.py
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from visitors import load, parrot_page, resident_mb

MOST_GROWTH = 50  # MB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--requests", type=int, default=500, help="of all together")
    parser.add_argument("--left", type=int, default=50, help="of them, left in the middle")
    parser.add_argument("--waiting", type=int, default=16, help="bound of the queue")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    is_fine = True
    with parrot_page(args.waiting) as (address, pid):
        asyncio.run(load(address, 1, 1, 0))
        before = resident_mb(pid)
        for number in range(1, args.rounds + 1):
            start = time.perf_counter()
            tally = asyncio.run(load(address, args.visitors, args.requests, args.left))
            seconds, growth = time.perf_counter() - start, resident_mb(pid) - before
            print(f"round {number}: {args.visitors} visitors, {seconds:.0f} s")
            print(f"  answered {tally.outcomes['answered']}, left {tally.outcomes['left']}")
            print(f"  refused politely {tally.outcomes['refused']}: {sorted(tally.refusals)}")
            print(f"  HTTP statuses {dict(tally.statuses)}, broken {tally.outcomes['broken']}")
            print(f"  answers with foreign or missing words {len(tally.foreign)}")
            print(f"  memory {before:.0f} MB + {growth:.0f} MB (bound {MOST_GROWTH})", flush=True)
            is_fine &= not (tally.num_server_errors or tally.foreign or tally.outcomes["broken"])
            is_fine &= growth <= MOST_GROWTH
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
