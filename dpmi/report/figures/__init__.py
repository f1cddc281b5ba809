"""Figures of reports and plots of the command line; each module draws one figure."""
