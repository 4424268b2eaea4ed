"""Messages between server and clients: encoding, synchronization of bases, and byte counts.

::

    codec     encoding of values                header    the fields of a header and their ranges
    grid      matrices as integer codes         layout    where tensors are, and lengths
    message   header and tensors to bytes       batch     many messages at once
    spec      what a receiver expects           sections  what a sender puts in
    ledger    the version each client holds     exchange  down, up and sync messages
    traffic   bytes by direction and kind       channel   messages inside a simulation
    cost      the byte formula
"""

from fedloru.wire.channel import Channel
from fedloru.wire.codec import CODECS, Codec, pack, payload, width
from fedloru.wire.cost import cost, cost_by_profile
from fedloru.wire.exchange import decode_down, decode_sync, decode_up, encode_down, encode_sync, encode_up
from fedloru.wire.header import Header, check
from fedloru.wire.ledger import Ledger, Sync, base_hash, catch_up, since
from fedloru.wire.message import FORMAT, decode, encode
from fedloru.wire.sections import answered
from fedloru.wire.spec import MessageSpec, Spec
from fedloru.wire.traffic import KINDS, Traffic, kinds

__all__ = [
    "CODECS",
    "FORMAT",
    "KINDS",
    "Channel",
    "Codec",
    "Header",
    "Ledger",
    "MessageSpec",
    "Spec",
    "Sync",
    "Traffic",
    "answered",
    "base_hash",
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
