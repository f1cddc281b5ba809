"""dpmi: differential privacy for whole classes, and its evaluation with model inversion attacks.

The package root imports nothing, so that ``dpmi epsilon`` starts without torch. See :mod:`dpmi.privacy` for training,
:mod:`dpmi.attacks` for attacks, and :mod:`dpmi.study` for comparisons.
"""

__version__ = "0.1.0"
