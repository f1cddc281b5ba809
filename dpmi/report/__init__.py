"""The report of a study: tables, figures and one HTML page.

:func:`dpmi.report.write.write` makes all of them. :mod:`~dpmi.report.numbers` computes the tables,
:mod:`~dpmi.report.figures` draws, :mod:`~dpmi.report.page` writes the pages, and :mod:`~dpmi.report.words` formats
numbers. This package imports none of them, so that a plot of ``dpmi epsilon`` loads no torch.

MIA stands for model inversion attack, never for membership inference attack. :func:`dpmi.report.words.definitions`
defines MIA distance, advantage and attack accuracy, and every report prints these definitions.
"""
