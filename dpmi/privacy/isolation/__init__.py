"""Several buckets in one forward pass, soundly: labels say where the records are and follow them through every call."""
