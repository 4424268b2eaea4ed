"""Remove the working directory from Python's path when Python runs the package as ``python -m fedloru``.

Python puts it first, where a file such as ``torch.py`` would replace an installed package. It must be removed before
the package imports anything else. ``settings.resolve`` appends it when a `python:` name needs it.
"""

import sys


def _is_main() -> bool:
    """Return whether Python is about to run this package, rather than another that imports it."""
    return sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m") == "fedloru"


if _is_main() and not sys.flags.safe_path:
    del sys.path[0]
