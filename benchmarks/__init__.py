"""Speed and memory against named peers, as ratios measured side by side in one process: ``make bench``."""
