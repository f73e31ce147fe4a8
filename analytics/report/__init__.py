"""The report: one self-contained HTML page of a traced run, or of two. The only package here that imports altair."""

from moetrace.analytics.report.comparison.page import write_comparison
from moetrace.analytics.report.page import write_report

__all__ = ["write_comparison", "write_report"]
