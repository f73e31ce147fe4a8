"""The report: one self-contained HTML page of a traced run. The only package here that imports altair."""

from moetrace.analytics.report.page import write_report

__all__ = ["write_report"]
