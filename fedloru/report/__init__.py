"""What a run did, told: its folder read, its figures drawn, one page of its own, and its progress while it goes on.

plotly and rich are imported when something is drawn, not before. Figures are in ``plots`` and ``skew``.
"""

from fedloru.report.live import Live, summary_table
from fedloru.report.page import page, write
from fedloru.report.records import Records, read

__all__ = ["Live", "Records", "page", "read", "summary_table", "write"]
