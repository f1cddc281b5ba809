"""Tables, pictures and one page that show what a study found.

:func:`dpmi.report.write.write` makes all of them. :mod:`~dpmi.report.numbers` computes, :mod:`~dpmi.report.figures`
draws, :mod:`~dpmi.report.page` writes, and :mod:`~dpmi.report.words` says how each number is written. This package
imports none of them, so that a plot of ``dpmi epsilon`` loads no torch.
"""
