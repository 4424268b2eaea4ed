"""The theory, visible: ranks of clients and server."""
