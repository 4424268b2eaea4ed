"""``python -m fedloru`` is the command ``fedloru``."""

import sys

if not sys.flags.safe_path:
    # Python puts the working directory first, where a file such as plotly.py would replace an installed package.
    # `settings.resolve` appends it when a `python:` name needs it.
    del sys.path[0]

from fedloru.cli import main

main()
