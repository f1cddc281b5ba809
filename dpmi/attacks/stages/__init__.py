"""What attacks are assembled from: where a search starts, what it minimises, how it moves, which find is kept."""
