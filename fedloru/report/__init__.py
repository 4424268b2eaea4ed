"""Reports on a run: reading run folders, the HTML page with its figures, tables, and live progress.

plotly and rich are imported only when something is rendered. ::

    one run          records             read a run folder
                     headline, profiles  headline numbers; bytes by client profile
                     page                the HTML page of a run
                     results             its sections of results
                     figures             accuracy, loss and bytes
                     diagnostics         numbers recorded with each round, as figures, a table or sentences
                     site_figures        ranks and overlaps at each site
                     partition_figure    examples and classes per client
                     study_figures       curvature ranks, spectra and gradient alignment
                     generations         texts that a language model generated
                     plotly_script       embeds or shares the plotting script
                     live                progress and summary on the terminal
    shared           columns             rows declared once, as a table or as JSON
                     blocks, stylesheet  HTML building blocks; the CSS and the script, from assets/
                     terms               the terms that pages explain, as the glossary does
                     style, palette      the look of figures; colors in the light and the dark theme
                     units, names        number formats; short names of layers
                     scores, wording     which scores are shares or errors; their names
"""

from fedloru.report.live import Live, summary_table
from fedloru.report.page import page, write
from fedloru.report.records import Records, read
from fedloru.schema import shown

__all__ = [
    "Live",
    "Records",
    "page",
    "read",
    "shown",
    "summary_table",
    "write",
]
