"""The fused engine: trains all clients of a chunk in one batch, with one shared W."""

from fedloru.engine.fused.engine import Fused, approve, chunk_size, fused

__all__ = ["Fused", "approve", "chunk_size", "fused"]
