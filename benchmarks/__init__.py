"""Speed and memory compared with named peers, as ratios measured side by side in one process: ``make bench``."""
