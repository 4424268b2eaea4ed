"""What the server sees of the clients, for `fedloru clients`: written whenever it changes, and from time to time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fedloru.flower.guests import Guests
from fedloru.flower.protocol import Scores
from fedloru.flower.roster import Roster, Seen
from fedloru.flower.round import Round

LOOK = 30.0
"""The number of seconds after which what the server sees is written again."""


class Sightings:
    """What the server has seen of the clients in ``roster``, also before it was started."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self._seen: dict[str, Seen] = roster.seen()
        self._looked: tuple[float, Any] = 0.0, None

    def look(self, guests: Guests) -> None:
        """Write who is connected, if that has changed or was written some time ago."""
        at, before = self._looked
        now = dict(guests.known), dict(guests.problems)
        if now != before or time.monotonic() - at > LOOK:
            self._looked = time.monotonic(), now
            self._note_connected(guests)
            self._write()

    def note_round(self, done: Round) -> None:
        """Write what came of a round."""
        guests = done.guests
        self._note_connected(guests)
        for client, traffic in done.by_client.items():
            before = self._seen[guests.name(client)]
            up, down = before.up_bytes + traffic.total("up"), before.down_bytes + traffic.total("down")
            self._update(guests.name(client), up_bytes=up, down_bytes=down)
        for client in done.replies:
            version = done.assignment.state.version
            self._update(guests.name(client), round=done.assignment.round, version=version)
        self._write()

    def note_scores(self, found: Mapping[int, Scores], guests: Guests) -> None:
        """Write the scores of clients."""
        for client, each in found.items():
            best = each.personal or each.shared
            self._update(guests.name(client), loss=best.loss, accuracy=best.accuracy)
        self._write()

    def _note_connected(self, guests: Guests) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for index, client in enumerate(self.roster.clients):
            guest = guests.known.get(index)
            self._update(client.name, online=guest is not None, problem=guests.problems.get(index, ""))
            if guest is not None:
                said = guest.greeting
                self._update(
                    client.name, last_seen=now, fedloru=said.fedloru, examples=said.examples, version=said.held
                )

    def _update(self, name: str, **changes: Any) -> None:
        self._seen[name] = self._seen.get(name, Seen()).model_copy(update=changes)

    def _write(self) -> None:
        self.roster.see(self._seen)
