"""Several buckets in one forward pass, soundly: labels say where the records are, through every call."""
