"""Run every benchmark: ``make bench``."""

from __future__ import annotations

import os
import platform

import torch

from . import (
    accounting,
    attack_batching,
    audit,
    bucket_step,
    defenses,
    demo,
    distributed,
    features,
    following,
    linkage_attacks,
    many_users,
    metrics,
    priors,
    sweep,
)


def main() -> None:
    """Print the machine, then every table."""
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads\n"
    )
    accounting.run()
    print()
    bucket_step.run()
    print()
    following.run()
    print()
    sweep.run()
    print()
    defenses.main()
    print()
    attack_batching.main()
    print()
    linkage_attacks.run()
    print()
    metrics.main()
    print()
    priors.main()
    print()
    distributed.main()
    print()
    audit.run()
    print()
    features.run()
    print()
    many_users.run()
    print()
    demo.run()


if __name__ == "__main__":
    main()
