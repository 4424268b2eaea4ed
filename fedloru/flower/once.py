"""Answers each request in a new process: memory and accelerator are free between requests, and a crash ends only one.

Run as ``python -m fedloru.flower.once STATE``. On standard input, and as the answer on standard output, there are
blocks of bytes with their lengths: the client's source and terms as JSON, the kind, the text and the tensors.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

from fedloru.flower import protocol
from fedloru.flower.client_app import Respond, farewell, respond
from fedloru.flower.envelope import Enclosed
from fedloru.flower.member import Member
from fedloru.flower.protocol import Refusal
from fedloru.flower.site import Source
from fedloru.flower.state import StateFolder
from fedloru.flower.terms import Terms

LENGTH = struct.Struct(">Q")


def in_new_process(folder: Path, source: Source, terms: Terms) -> Respond:
    """Return a function that answers each request in a new process, except for a goodbye."""
    settings = json.dumps([[str(source.data), *source[1:]], terms])
    command = [sys.executable, "-m", "fedloru.flower.once", str(folder)]

    def answer(kind: str, request: Enclosed) -> Enclosed:
        if protocol.is_goodbye(request.text):
            return farewell(request)  # at once: the server is about to stop
        blocks = [settings.encode(), kind.encode(), *request]
        data = b"".join(LENGTH.pack(len(block)) + block for block in blocks)
        done = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else "failed"
            return Enclosed(
                protocol.text(Refusal(reason=f"the process that answers requests {how}; see the log of the client"))
            )
        return Enclosed(*_split(done.stdout))

    return answer


def _split(data: bytes) -> list[bytes]:
    blocks, start = [], 0
    while start < len(data):
        (length,) = LENGTH.unpack_from(data, start)
        start += LENGTH.size
        blocks.append(data[start : start + length])
        start += length
    return blocks


def main(folder: str, source: BinaryIO, target: BinaryIO) -> None:
    """Answer the request on ``source``."""
    settings, kind, *request = _split(source.read())
    (data, *rest), terms = json.loads(settings)
    member = Member(
        StateFolder(Path(folder)), Source(Path(data), *rest), Terms(*terms)._replace(python=tuple(terms[3]))
    )
    answer = respond(member, kind.decode(), Enclosed(*request))
    for block in answer:
        target.write(LENGTH.pack(len(block)) + block)


if __name__ == "__main__":
    output = sys.stdout.buffer
    sys.stdout = sys.stderr  # what the model prints is not part of the answer
    main(sys.argv[1], sys.stdin.buffer, output)
