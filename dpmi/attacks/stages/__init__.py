"""Building blocks of the attacks: starting points, costs, search loops and the selection of reconstructions."""
