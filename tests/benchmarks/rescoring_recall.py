"""How many of a second predictor's positives are among the best of the first one.

    screen run --source mp_snapshot.parquet --max-ehull 0.5 --rescore 20000 --db all.sqlite
    python -m tests.benchmarks.rescoring_recall all.sqlite

The run must have judged all again that the second predictor does not refuse. Prints Markdown.
"""

from __future__ import annotations

import argparse

from db.documents import CandidateDoc, FirstVerdict
from db.open import open_store

BEST = (500, 1000, 2000, 4000, 8000, 12000)


def judged_again(db: str) -> list[tuple[FirstVerdict, CandidateDoc]]:
    """First verdicts and candidates of the newest run that have a second one, best first."""
    with open_store(db, read_only=True) as store:
        run = store.runs()[0]
        found = [
            (candidate.first_verdict, candidate)
            for candidate in store.candidates(run.run_id, state="screened")
            if candidate.first_verdict and candidate.model_id == run.second_model_id
        ]
    return sorted(found, key=lambda pair: -pair[0].score)


def main() -> None:
    """Print the counts and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("db")
    judged = judged_again(parser.parse_args().db)
    positive = [candidate.is_positive for _, candidate in judged]
    first = [verdict.is_positive for verdict, _ in judged]
    both = sum(a and b for a, b in zip(first, positive, strict=True))
    print(f"{len(judged):,} judged again: {sum(first):,} positive to the first predictor, ", end="")
    print(f"{sum(positive):,} to the second, {both:,} to both\n")
    shown = [n for n in BEST if n < len(judged)]
    print("| the best N | " + " | ".join(f"{n:,}" for n in shown) + " |")
    print("| ---" * (len(shown) + 1) + " |")
    inside = [p and c.in_domain != "no" for p, (_, c) in zip(positive, judged, strict=True)]
    for which, wanted in (("all", positive), ("in or near its domain", inside)):
        shares = (sum(wanted[:n]) / max(1, sum(wanted)) for n in shown)
        row = " | ".join(f"{share:.2f}" for share in shares)
        print(f"| share of the second's {sum(wanted):,} positives, {which} | {row} |")


if __name__ == "__main__":
    main()
