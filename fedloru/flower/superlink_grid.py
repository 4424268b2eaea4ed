"""The Grid of the SuperLink in this process: it sends the messages of a run, and collects the answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Self, cast

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID, SubStatus
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from fedloru.errors import FedloruError
from fedloru.flower.post import Exchange
from fedloru.flower.superlink import STOP_SECONDS, SuperLink

BEAT = 10.0
"""The number of seconds between heartbeats of the run, which Flower ends after 60 s without one."""
UPLOAD_SECONDS = 600.0
"""How long the parts of an answer may take to arrive."""


class SuperLinkGrid(Exchange):
    """The grid of a ``SuperLink`` in this process: a run of Flower's, for as long as the context lasts."""

    def __init__(self, link: SuperLink) -> None:
        self.link, self.state = link, link.state
        self._stop = threading.Event()
        self._arriving: dict[str, tuple[Message, float]] = {}

    def __enter__(self) -> Self:
        """Start a run."""
        state = self.state
        self._run_id = state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        runs = state.get_run_info(run_ids=[self._run_id])
        if runs:
            self.set_run(runs[0])
        self._task = self.run.primary_task_id
        if self._task is None or state.claim_task(self._task) is None or not state.activate_task(self._task):
            raise FedloruError("Flower's server did not accept a run: remove its database, then try again")
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self._run_id, SUPERLINK_NODE_ID, self._task
        self._thread = threading.Thread(target=self._beat, name="superlink-run", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, problem: type[BaseException] | None, *_: object) -> None:
        """End the run, unless there is a problem: Ctrl-C can leave a transaction open, so the next start ends it."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)
        if problem is None:
            self.state.finish_task(self._task or 0, SubStatus.COMPLETED, "")

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            self.state.acknowledge_task_heartbeat(self._task or 0)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the connected clients, also those that have been enrolled since the last call."""
        self.link.enroll()
        return self.state.get_node_info(node_ids=list(self.state.get_nodes(self._run_id)))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages over; returns their ids, "" for a message that is not accepted."""
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        message.metadata.__dict__["_message_id"] = message.object_id
        with no_object_id_recompute():
            objects, tree = get_all_nested_objects(message), get_object_tree(message)
            session = self.state.start_session(self._run_id)
            stored, missing = self.state.store_message_and_object_tree(
                remove_content_from_message(message), tree, session
            )
            for name in missing:
                self.state.store_object(self._run_id, session, name, objects[name].deflate())
        if stored:
            self.link.mailboxes.add(message.metadata.dst_node_id)
        return message.metadata.message_id if stored else ""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers to ``message_ids`` that have arrived completely, and remove both.

        Flower hands each answer over once, before its parts have arrived. It is kept until it is complete and asked
        for.
        """
        wanted = set(message_ids)
        for answer in self.state.get_message_res(message_ids=set(wanted), run_id=self._run_id):
            self._arriving[answer.metadata.message_id] = answer, time.monotonic() + UPLOAD_SECONDS
        found = []
        for name, (answer, end) in list(self._arriving.items()):
            late = time.monotonic() >= end
            if answer.metadata.reply_to_message_id not in wanted and not late:
                continue
            complete = self._complete(answer)
            if complete is None and not late:
                continue
            del self._arriving[name]
            self.state.delete_messages({answer.metadata.reply_to_message_id})
            if complete is not None and answer.metadata.reply_to_message_id in wanted:
                found.append(complete)
        return found

    def bound(self, nbytes: int) -> None:
        """Refuse answers of more than ``nbytes`` bytes before their content is received."""
        self.link.max_message = nbytes

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Remove messages and what has arrived of their answers."""
        names = set(message_ids)
        for answer, _ in list(self._arriving.values()):
            if answer.metadata.reply_to_message_id in names:
                self.state.object_store.delete(answer.metadata.message_id)
                del self._arriving[answer.metadata.message_id]
        self.state.delete_messages(names)
        for name in names:
            self.state.object_store.delete(name)

    def _complete(self, answer: Message) -> Message | None:
        """Return an answer with its content; None if a part has not arrived."""
        return answer if answer.has_error() else self._inflated(answer)

    def _inflated(self, answer: Message) -> Message | None:
        store, name = self.state.object_store, answer.metadata.message_id
        names = [tree.object_id for tree in iterate_object_tree(store.get_object_tree(name))]
        contents = {each: self.state.get_object(self._run_id, each) for each in names}
        if not all(contents.values()):
            return None
        present = {each: content for each, content in contents.items() if content}
        message = cast(Message, inflate_object_from_contents(name, present))
        store.delete(name)
        message.metadata.__dict__["_message_id"] = name
        return message
