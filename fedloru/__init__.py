"""fedloru."""
