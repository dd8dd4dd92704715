"""The driver hosts the store and drives the rounds. Only it accesses the store in this process."""

from __future__ import annotations

import faulthandler
import inspect
import json
import math
import os
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from torchrun_rendezvous import clock
from torchrun_rendezvous.board import Board
from torchrun_rendezvous.documents import ProtocolError
from torchrun_rendezvous.logs import log
from torchrun_rendezvous.memory import HEARTBEAT_SECONDS, Memory, Senses
from torchrun_rendezvous.note import VERSIONS, Note, noted, read_note, resumed, written
from torchrun_rendezvous.rounds import decide
from torchrun_rendezvous.sockets import connected_peers, unanswered_seconds
from torchrun_rendezvous.state import Codec, StateError
from torchrun_rendezvous.view import View

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

TICK_SECONDS = 0.1
HURRY_SECONDS = 0.002
"""The pause between ticks while members of a fresh round can see a waiting node."""
ATTEMPTS = 50
"""How often a tick decides again because an agent wrote in between, before it yields."""
LOOK_PAUSE, MOST_LOOK_SECONDS = 10, 0.5
"""Reading the connections may take a tenth of the time. A lost one must be detected within liveness.GONE_SECONDS."""
FATAL_SECONDS = 60.0
"""The process ends if no tick succeeds for this long: a new store is better than a stuck one."""
OLD_HEARTBEAT_SECONDS = 5.0
"""Old versions of torch, such as 2.6, ignore the configured interval."""
AWAY_SECONDS = 5.0
"""The operator always has an open request, and reconnects within 5 s after a failure."""
STORE_TIMEOUT = timedelta(seconds=10)
MOST_WORKERS = 1 << 20


def world_of(ranks: bytes) -> int | None:
    """Return the number of workers from what an agent reads about its ranks: base rank, world size, and the role's."""
    try:
        size = json.loads(ranks)[1]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return size if type(size) is int and 0 < size <= MOST_WORKERS else None


class Driver(threading.Thread):
    """The thread of the store."""

    def __init__(self, rendezvous_id: str, port: int, board: Board) -> None:
        super().__init__(name="driver", daemon=True)
        self._prefix = f"torch.rendezvous.{rendezvous_id}"
        self._port = port
        self._board = board
        self._memory = Memory()
        self._note: tuple[Note | None, str | None] = (None, None)
        """The last note, and its text."""
        self._good = Codec.SENTINEL.decode()
        """The last valid state."""
        self._ticked_at, self._armed_at = 0.0, -math.inf
        self._look_at = -math.inf
        self._interval = HEARTBEAT_SECONDS

    def run(self) -> None:
        """Serve until the process ends. It ends if the store cannot be opened."""
        began = time.monotonic()
        try:
            store, codec = self._open()
        except Exception as error:
            log({"event": "store-failed", "error": repr(error)})
            os._exit(1)
        log({"event": "store-up", "port": self._port, "seconds": round(time.monotonic() - began, 2)})
        self._ticked_at = time.monotonic()
        while True:
            self._arm()
            self._board.wake.clear()
            try:
                pause = self._tick(store, codec)
                self._ticked_at = time.monotonic()
            except Exception as error:
                log({"event": "tick-failed", "error": repr(error)})
                pause = 1.0
            self._board.wake.wait(pause)

    def _arm(self) -> None:
        """End the process FATAL_SECONDS after the last successful tick, even if a tick hangs with all locks held."""
        if self._ticked_at > self._armed_at:
            self._armed_at = time.monotonic() + 1.0  # once per second is often enough
            faulthandler.dump_traceback_later(FATAL_SECONDS, exit=True)

    def _open(self) -> tuple[TCPStore, Codec]:
        # Imported here because it takes seconds: HTTP answers before, and SIGTERM ends the process meanwhile.
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415
        from torch.distributed.elastic.rendezvous import dynamic_rendezvous as torchs  # noqa: PLC0415

        store = TCPStore(
            "0.0.0.0",  # noqa: S104 - the nodes of the job are elsewhere
            self._port,
            is_master=True,
            wait_for_workers=False,
            multi_tenant=True,
            timeout=STORE_TIMEOUT,
        )
        store.compare_set(self._prefix, "", Codec.SENTINEL.decode())
        takes_interval = (
            "keep_alive_interval" in inspect.signature(torchs.DynamicRendezvousHandler.from_backend).parameters
        )
        self._interval = HEARTBEAT_SECONDS if takes_interval else OLD_HEARTBEAT_SECONDS
        return store, Codec(torchs._RendezvousState, torchs._NodeDesc)  # noqa: SLF001

    def _tick(self, store: TCPStore, codec: Codec) -> float:
        """Decide and write, again if an agent wrote in between. Return the seconds until the next tick."""
        target = self._board.target
        for _ in range(ATTEMPTS):
            raw: bytes = store.get(self._prefix) if store.check([self._prefix]) else b""
            try:
                state = codec.decode(raw)
                view = codec.view(state, self._finished(store))
            except StateError as error:
                self._restore(store, error)
                continue
            self._good = raw.decode()
            self._take_over(codec.note(state), view)
            now = clock.now()
            decision = decide(view, target, now, self._memory, self._senses(store, view))
            note = self._noted(decision.memory)
            if state is not None and (decision.view, note or codec.note(state)) != (view, codec.note(state)):
                new = codec.encode(state, decision.view, note)
                if store.compare_set(self._prefix, self._good, new.decode()) != new:
                    continue
            self._memory = decision.memory
            if decision.repair is not None:
                self._repair(store, decision.repair)
            if decision.release is not None:
                store.compare_set(self._barrier(decision.release, "last_member"), "", "released")
            for line in decision.lines:
                log(line)
            self._board.publish(decision.view, decision.memory, target)
            return HURRY_SECONDS if decision.hurry else TICK_SECONDS
        return HURRY_SECONDS

    def _take_over(self, text: object, view: View) -> None:
        """Continue what another host began, if this one has seen no round and agents have brought a note."""
        memory = self._memory
        if text is None or memory.rounds or memory.running is not None:
            return
        try:
            note = read_note(text)
        except ProtocolError as error:
            log({"event": "note-refused", "error": str(error)})
            return
        same = self._board.take_over(note.instance, note.version + VERSIONS)
        self._memory = resumed(note, view, memory, same=same)
        running = self._memory.running
        log({"event": "taken-over", "round": running.round if running else view.round, "sameInstance": same})

    def _noted(self, memory: Memory) -> str | None:
        """Return the text of the note; None before the first round."""
        if not memory.rounds and memory.running is None:
            return None
        last, text = self._note
        note = noted(memory, self._board.instance, last.version if last is not None else self._board.version)
        if note != last:
            note = replace(note, version=self._board.version)
            self._note = note, (text := written(note))
        return text

    def _restore(self, store: TCPStore, error: StateError) -> None:
        """Restore the last valid state: any other value would end every agent that reads it."""
        log({"event": "state-restored", "error": str(error)})
        store.set(self._prefix, self._good)
        self._board.restored()

    def _senses(self, store: TCPStore, view: View) -> Senses:
        running, published = self._memory.running, True
        peers, unanswered = self._look()
        if running and view.complete and view.round == running.round:
            published = store.check([f"{self._prefix}.{running.round}/{key}" for key in ("MASTER_ADDR", "MASTER_PORT")])
        away = self._board.operator_silence() > AWAY_SECONDS
        return Senses(peers, unanswered, published, away, self._interval, self._world(store))

    def _look(self) -> tuple[frozenset[str] | None, dict[str, float] | None]:
        """Ask the kernel for the connections, if it is time: with thousands of them that takes a tenth of a second."""
        began = time.monotonic()
        if began < self._look_at:
            return None, None
        seen = connected_peers(self._port), unanswered_seconds(self._port)
        took = time.monotonic() - began
        self._look_at = began + min(max(TICK_SECONDS, LOOK_PAUSE * took), MOST_LOOK_SECONDS)
        return seen

    def _finished(self, store: TCPStore) -> int:
        """Return how many agents of the running round wait in torchrun's exit barrier."""
        if self._memory.running is None:
            return 0
        key = self._barrier(self._memory.running.round, "num_members")
        said = store.get(key) if store.check([key]) else b"0"
        return int(said) if said.isdigit() and len(said) < 10 else 0

    def _barrier(self, number: int, key: str) -> str:
        """Return a key of torchrun's exit barrier, in which agents whose workers are done wait for the others."""
        return f"{self._prefix}.{number}/torchelastic/agent/terminal_state/{key}"

    def _world(self, store: TCPStore) -> int | None:
        """Return the number of workers of the running round, which rank 0 writes for the others beside their ranks.

        Agents that all run the same number, TORCH_ELASTIC_WORKER_IDENTICAL, write nothing.
        """
        running = self._memory.running
        if running is None or running.world is not None:
            return None
        key = f"{self._prefix}.{running.round}/torchelastic/assigned_ranks/0"
        return world_of(store.get(key)) if store.check([key]) else None

    def _repair(self, store: TCPStore, number: int) -> None:
        """Publish the address in place of rank 0. Otherwise the others would time out and close the rendezvous.

        The address does not answer, which does not matter: the round has been kicked. A published address stays.
        """
        for key, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
            if store.compare_set(f"{self._prefix}.{number}/{key}", "", value) == value.encode():
                log({"event": "repaired", "round": number, "key": key})
