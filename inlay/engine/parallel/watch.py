"""Notice that a rank has died or frozen, and end all the others, with a message that names it.

Every rank keeps a ``TCPStore`` whose server is a thread of C++: it answers while the process lives,
whatever Python does, loading data or waiting in a collective for minutes. Rank 0 asks all others
once a second, and all others ask rank 0. Only the *process* is watched, never its progress.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch.distributed as dist

INTERVAL = 1.0
"""Seconds between two questions to a rank."""
GRACE = 2.0
"""Seconds that a rank which does not answer any more has to say that its work was done."""
FAULT = "fault"
PACKAGE = str(Path(__file__).parents[2])
ELSEWHERE = "code that is not ours"
PHASES = {
    "save_checkpoint": "saving a checkpoint",
    "evaluate": "validation",
    "train_window": "training",
    "build_runner": "start-up",
}
"""What a rank is doing, by the function of ours that it is in."""


@dataclass
class Peer:
    """A rank that is watched.

    Attributes:
        rank, address, port, pid: of its process.
        machine: tells processes apart that can see one another by number.
        host: its machine's name, for messages.
        seen: ``time.monotonic`` of its last answer. lost: of the end of its connection.
    """

    rank: int
    address: str
    port: int
    pid: int
    machine: str
    host: str
    seen: float = field(default_factory=time.monotonic)
    lost: float | None = None


class RankWatch:
    """Watches from a thread of its own until :meth:`stop`. Every rank makes one.

    Args:
        timeout: seconds without an answer after which a rank is frozen.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout, self.rank = timeout, dist.get_rank()
        self._over = threading.Event()
        self._place: str | None = None
        address = _own_address()
        self._store = dist.TCPStore(address, 0, is_master=True, wait_for_workers=False)
        mine = (self.rank, address, self._store.port, os.getpid(), _machine(), socket.gethostname())
        found = [mine] * dist.get_world_size()
        dist.all_gather_object(found, mine)
        self._peers = [Peer(*p) for p in found if p[0] and not self.rank]
        self._peers = self._peers or [Peer(*found[0])]
        self._clients: dict[int, dist.TCPStore] = {}
        self._threads = [
            threading.Thread(target=self._ask, args=(peer,), daemon=True) for peer in self._peers
        ]
        self._threads.append(threading.Thread(target=self._look, daemon=True))
        for thread in self._threads:
            thread.start()

    # -- ending ------------------------------------------------------------------------------

    def leave(self) -> None:
        """Tell the others that this rank leaves with its work done."""
        for client in list(self._clients.values()):
            with suppress(Exception):  # it is gone already: nobody to tell
                client.set(_done(self.rank), "1")

    def explain(self, error: BaseException) -> None:
        """Give the threads the time to find another rank's fault, which ends this process."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        self._place = _where(trace.tb_frame if trace else None)
        if threading.current_thread() is threading.main_thread():
            # A launcher that has seen the dead rank ends this one, too: with the word first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        began = time.monotonic()
        sees_all = len(self._peers) == dist.get_world_size() - 1
        while time.monotonic() - began < INTERVAL + GRACE + 1.0:
            if sees_all and all(p.seen > began for p in self._peers):
                return  # all others live
            time.sleep(INTERVAL / 10)

    def stop(self) -> None:
        """End watching."""
        self._over.set()
        for thread in self._threads:
            thread.join(2 * INTERVAL)

    # -- watching ----------------------------------------------------------------------------

    def _ask(self, peer: Peer) -> None:
        """Ask one rank again and again; it is lost when the connection breaks."""
        try:
            client = dist.TCPStore(
                peer.address,
                peer.port,
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=max(self.timeout, 10.0)),
            )
            self._clients[peer.rank] = client
            while not self._over.wait(INTERVAL):
                if self._store.check([_done(peer.rank)]):
                    return
                client.check([FAULT])
                peer.seen = time.monotonic()
                if _is_dead(peer):  # its workers hold its connections open for a while
                    break
        except Exception:  # whatever the store raises when the other end has gone
            pass
        peer.lost = time.monotonic()

    def _look(self) -> None:
        """Judge what the questions have brought, and act."""
        before = time.monotonic()
        while not self._over.wait(INTERVAL / 2):
            now = time.monotonic()
            if now - before > 5 * INTERVAL:  # this process was itself stopped for a while
                for peer in self._peers:
                    peer.seen = now
            before = now
            fault = self._fault(now)
            if fault and not self._over.is_set():
                self._leave(*fault)

    def _fault(self, now: float) -> tuple[str, Peer | None] | None:
        """Return what has happened, and to whom; the rank is None where another rank found it."""
        if self._store.check([FAULT]):
            return self._store.get(FAULT).decode(), None
        for peer in self._peers:
            who = f"rank {peer.rank} (process {peer.pid} on {peer.host})"
            if _is_dead(peer) or (peer.lost is not None and now - peer.lost > GRACE):
                if not self._store.check([_done(peer.rank)]):
                    return f"{who} has ended before its work was done", peer
            elif peer.lost is None and now - peer.seen > self.timeout:
                return f"{who} is frozen: it has not answered for {self.timeout:g} s", peer
        return None

    def _leave(self, what: str, culprit: Peer | None) -> None:
        """Say it, tell the ranks that rank 0 watches, end the frozen one, and leave at once."""
        logging.getLogger("inlay").error(
            "%s. Rank %d was waiting for it in %s. All ranks stop; go on from the last checkpoint "
            "with --resume",
            what,
            self.rank,
            self._place or _where(sys._current_frames().get(threading.main_thread().ident or 0)),
        )
        others = [c for rank, c in self._clients.items() if culprit and rank != culprit.rank]
        telling = [threading.Thread(target=_tell, args=(c, what), daemon=True) for c in others]
        for thread in telling:
            thread.start()
        for thread in telling:
            thread.join(INTERVAL)
        if culprit is not None and culprit.machine == _machine():
            with suppress(OSError):  # a launcher's SIGTERM would wait until it goes on
                os.kill(culprit.pid, signal.SIGKILL)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(1)


def _tell(client: dist.TCPStore, what: str) -> None:
    with suppress(Exception):
        client.set(FAULT, what)


def _done(rank: int) -> str:
    return f"done/{rank}"


def _own_address() -> str:
    """The address under which the other ranks reach this machine."""
    master = os.environ.get("MASTER_ADDR", "127.0.0.1")
    port = int(os.environ.get("MASTER_PORT", "29500"))
    try:
        family, kind, _, _, target = socket.getaddrinfo(master, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # sends nothing: a datagram socket only chooses its way
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()


def _machine() -> str:
    """What processes have in common that can see one another by number."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"  # not Linux: nobody


def _is_dead(peer: Peer) -> bool:
    """Whether a process of this machine has ended, even if nobody has waited for it yet."""
    if peer.machine != _machine():
        return False
    try:
        stat = Path(f"/proc/{peer.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def _where(frame: FrameType | None) -> str:
    """What a thread is doing: the phase, and the innermost function of ours."""
    place, phase = ELSEWHERE, None
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if file.startswith(PACKAGE):
            if place == ELSEWHERE:
                place = f"{name} (inlay{file.removeprefix(PACKAGE)}:{frame.f_lineno})"
            phase = phase or PHASES.get(name)
        frame = frame.f_back
    return f"{phase}, {place}" if phase else place


_watch: RankWatch | None = None


def start(timeout: float) -> None:
    """Start to watch the ranks of the default process group; a ``timeout`` of 0 watches none."""
    global _watch
    if timeout > 0:
        _watch = RankWatch(timeout)


def stop() -> None:
    """End watching. While an error is on its way out, this rank does not leave with its work done;
    one of a broken collective is first looked into: it may come of another rank's end."""
    global _watch
    watch, _watch = _watch, None
    if watch is None:
        return
    error = sys.exc_info()[1]
    if error is None:
        watch.leave()
    elif isinstance(error, RuntimeError):
        watch.explain(error)
    watch.stop()
