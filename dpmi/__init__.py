"""dpmi: differential privacy for whole classes, measured against model inversion.

The package root imports nothing, so that ``dpmi epsilon`` starts without torch. Start from
:mod:`dpmi.privacy` to train, :mod:`dpmi.attacks` to invert, :mod:`dpmi.study` to compare.
"""

__version__ = "0.1.0"
