"""dpmi's step compared with what else computes it, in one run: ``python -m benchmarks.peers``."""
