"""Gradients of whole buckets: one after another, or of several from one forward and backward pass."""
