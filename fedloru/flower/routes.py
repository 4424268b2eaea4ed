"""The routes of Flower's server that clients use; everything else on its port is for the operator."""

from __future__ import annotations

FLEET = (
    "register-node",
    "activate-node",
    "deactivate-node",
    "unregister-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
"""The calls of a client, each a POST; a test compares them with the router of the installed version of Flower.

The control routes next to them, which start runs and register clients, have no authentication.
"""
PREFIX = "/v1/fleet/"
CHUNK = 5 * 2**20
"""The size of the pieces in which Flower sends an array, in bytes."""
MAX_BODY = 16 * 2**20
"""The default bound of a request, in bytes."""
