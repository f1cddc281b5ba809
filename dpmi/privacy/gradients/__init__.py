"""Gradients of whole buckets: one bucket after another, or several from one forward and backward pass."""
