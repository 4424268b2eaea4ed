"""A request that is answered by a new process: memory and accelerator are free between requests, and a crash is one.

Run as ``python -m fedloru.flower.once STATE``. On standard input, and as the answer on standard output, there are
blocks of bytes with their lengths: the client's source and terms as JSON, the kind, the text and the tensors. Standard
input stays open until the answer is complete; if it is closed earlier, the client was killed, and the process ends too,
so that no two processes write to the state directory.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from fedloru.flower import protocol
from fedloru.flower.client_app import Respond, respond
from fedloru.flower.envelope import Enclosed
from fedloru.flower.member import Member
from fedloru.flower.protocol import Refusal
from fedloru.flower.site import Source
from fedloru.flower.state import StateFolder
from fedloru.flower.terms import Terms

LENGTH = struct.Struct(">Q")
BLOCKS = 4
"""The number of blocks of a request."""


def in_new_process(folder: Path, source: Source, terms: Terms) -> Respond:
    """Return a function that answers each request in a new process."""
    settings = json.dumps([[str(source.data), *source[1:]], terms])
    command = [sys.executable, "-m", "fedloru.flower.once", str(folder)]

    def answer(kind: str, request: Enclosed) -> Enclosed:
        blocks = [settings.encode(), kind.encode(), *request]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None and process.stdout is not None
        found: list[bytes] = []
        try:
            with suppress(BrokenPipeError, EOFError):  # it has failed, which its exit code says
                _write(process.stdin, blocks)
                found = [_read(process.stdout), _read(process.stdout)]
            code = process.wait()
        finally:
            process.kill()
            process.communicate()
        if code or not found:
            how = f"was killed by signal {-code}" if code < 0 else "failed"
            return Enclosed(protocol.text(Refusal(reason=f"the process that answers requests {how}; see its log")))
        return Enclosed(*found)

    return answer


def _write(target: IO[bytes], blocks: Iterable[bytes]) -> None:
    for block in blocks:
        target.write(LENGTH.pack(len(block)))
        target.write(block)
    target.flush()


def _read(source: IO[bytes]) -> bytes:
    """Return the next block.

    Raises:
        EOFError: there is none.
    """
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    block = source.read(length)
    if len(block) < length:
        raise EOFError
    return block


def _end_with(source: IO[bytes]) -> None:
    """End this process when ``source`` is closed: the client that waits for the answer was killed."""
    os.read(source.fileno(), 1)  # a buffered read would hold a lock that the end of the process needs
    os._exit(1)


def main(folder: str, source: IO[bytes], target: IO[bytes]) -> None:
    """Answer the request on ``source``."""
    settings, kind, *request = [_read(source) for _ in range(BLOCKS)]
    threading.Thread(target=_end_with, args=(source,), daemon=True).start()
    (data, *rest), terms = json.loads(settings)
    member = Member(
        StateFolder(Path(folder)), Source(Path(data), *rest), Terms(*terms)._replace(python=tuple(terms[3]))
    )
    answer = respond(member, kind.decode(), Enclosed(*request))
    _write(target, answer)


if __name__ == "__main__":
    output = sys.stdout.buffer
    sys.stdout = sys.stderr  # what the model prints is not part of the answer
    main(sys.argv[1], sys.stdin.buffer, output)
