"""Comparisons of runs: tables, pictures and a page.

::

    compared   ``fedloru.compare`` and what it returns        groups     runs that differ only in the seed
    labels     how groups are called                          metric     what runs are compared by
    measures   the numbers that are compared                  paired     intervals, paired differences and their test
    results    rows of values, and tables                     texts      LaTeX, Markdown and CSV
    page       the page, and tables for the terminal          figures    its figures
    curves     the points of learning curves                  pictures   learning curves for papers
    places     where files may be written
"""

from fedloru.comparison.compared import Comparison, compare
from fedloru.comparison.groups import Group

__all__ = ["Comparison", "Group", "compare"]
