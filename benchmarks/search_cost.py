"""What a private search costs, beside one run and beside all runs; the table of docs/decisions/several_runs.md.

``python -m benchmarks.search_cost`` prints it; it takes seconds.
"""

from __future__ import annotations

import math

from accountants import BucketMechanism, Ledger, Tries

NOISES = (4, 8, 16, 32)
MEAN = 10
SHAPES = {"logarithmic": 0.0, "geometric": 1.0, "Poisson": math.inf}


def main() -> None:
    """Print the table in Markdown."""
    print(f"| noise multiplier | one run | {' | '.join(SHAPES)} | all {MEAN} released |")
    print("| --- " * (3 + len(SHAPES)) + "|")
    asked = {"delta": 1e-5, "unit": "user"}
    for noise in NOISES:
        run = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=noise), 200)
        found = [
            run.guarantee(**asked),
            *(Tries(mean=MEAN, shape=shape).guarantee(run, **asked) for shape in SHAPES.values()),
            sum([run] * MEAN, Ledger()).guarantee(**asked),
        ]
        print(f"| {noise} | {' | '.join(f'{each.epsilon:.2f}' for each in found)} |")


if __name__ == "__main__":
    main()
