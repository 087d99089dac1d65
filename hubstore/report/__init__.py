"""The report of a store: one self-contained HTML page, its figures as PNGs, its tables as CSV."""

from hubstore.report.write import write_report

__all__ = ["write_report"]
