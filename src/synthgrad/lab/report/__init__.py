"""Tables and curves from run folders, as one self-contained HTML page."""

from synthgrad.lab.report.errors import ReportError
from synthgrad.lab.report.page import write_report

__all__ = ["ReportError", "write_report"]
