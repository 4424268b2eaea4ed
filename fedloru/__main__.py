"""``python -m fedloru`` is the command ``fedloru``."""

from fedloru.cli import main

main()
