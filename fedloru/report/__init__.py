"""What runs did, told: a folder read, its figures drawn, a page of one run or of many, and progress while one goes on.

plotly and rich are imported when something is drawn, not before. ::

    records  a run folder, read        page, headline    one run            plots, inside, skew   its figures
    profiles clients that differ       live              progress           blocks, css           pages of HTML
    groups   runs by configuration     versus, tally     many compared      race                  their figures
    writing  what a model wrote        style, units      looks and words
"""

from fedloru.report.comparison import comparison, comparison_table, write_comparison
from fedloru.report.groups import Group, cautions, grouped
from fedloru.report.live import Live, summary_table
from fedloru.report.page import page, write
from fedloru.report.records import Records, read
from fedloru.report.results import write_csv

__all__ = [
    "Group",
    "Live",
    "Records",
    "cautions",
    "comparison",
    "comparison_table",
    "grouped",
    "page",
    "read",
    "summary_table",
    "write",
    "write_comparison",
    "write_csv",
]
