"""The wire: messages as bytes, codecs, the synchronisation of bases, and the account of traffic.

::

    codec     how values are written            message   header + tensors ↔ bytes
    ledger    who holds which version           exchange  down, up and sync as messages
    traffic   bytes by direction and kind       channel   the simulation's wire      cost  the closed formula
"""

from fedloru.wire.channel import Channel
from fedloru.wire.codec import CODECS, pack, payload, width
from fedloru.wire.cost import cost, cost_by_profile
from fedloru.wire.exchange import decode_down, decode_sync, decode_up, encode_down, encode_sync, encode_up
from fedloru.wire.ledger import Ledger, Sync, catch_up, since
from fedloru.wire.message import FORMAT, Header, check, decode, encode
from fedloru.wire.traffic import KINDS, Traffic, kinds

__all__ = [
    "CODECS",
    "FORMAT",
    "KINDS",
    "Channel",
    "Header",
    "Ledger",
    "Sync",
    "Traffic",
    "catch_up",
    "check",
    "cost",
    "cost_by_profile",
    "decode",
    "decode_down",
    "decode_sync",
    "decode_up",
    "encode",
    "encode_down",
    "encode_sync",
    "encode_up",
    "kinds",
    "pack",
    "payload",
    "since",
    "width",
]
