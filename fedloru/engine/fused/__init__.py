"""The fused engine: all clients of a chunk in one batch, on one shared W."""

from fedloru.engine.fused.engine import Fused, approve, chunk_size, fused

__all__ = ["Fused", "approve", "chunk_size", "fused"]
