"""The processes that train one model together: messages between them, and the exchange of tensors.

The first process leads: it reads, decides, writes and prints. The others wait for its messages in the launcher's
key-value store, which they poll, so that they wait without a time limit and still notice signals and failures. Tensors are
exchanged in a process group (gloo on a CPU, NCCL on GPUs), which exists from the first training on.

Nothing here is imported by an ordinary training in one process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from randout.core.errors import EndedElsewhere, Failure
from randout.core.launch import Launch

POLL = 0.02  # seconds between two looks into the store
LIMIT = timedelta(hours=2)  # of one exchange; between two, the leader at most writes a checkpoint
PATIENCE = 2.0  # seconds before a process that follows reports a failure of its own
GOODBYE = 10.0  # seconds that the leader waits for the others to read its last message

_numbers = count()  # of this process's sessions; the same in all processes


class Processes:
    """This process among those that train one model."""

    def __init__(self, launch: Launch) -> None:
        self.launch, self.rank, self.size, self.leads = launch, launch.rank, launch.size, launch.leads
        session = f"randout/{next(_numbers)}"
        self.store = dist.PrefixStore(session, _store(launch))
        self.session, self.sent, self.read, self.jobs = session, 0, 0, 0
        self.grouped = False

    # Messages

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message from the leader to all others."""
        self.store.set(f"message/{self.sent}", json.dumps(message))
        self.sent += 1

    def next_message(self) -> dict[str, Any]:
        """Wait for the leader's next message. Raises EndedElsewhere if a process failed."""
        self._wait_for(lambda: self.store.check([f"message/{self.read}"]))
        message: dict[str, Any] = json.loads(self.store.get(f"message/{self.read}"))
        self.read += 1
        return message

    def meet(self) -> None:
        """Wait until every process is here, then make the process group if there is none. Raises EndedElsewhere."""
        self.jobs += 1
        key = f"ready/{self.jobs}"
        self.store.add(key, 1)
        self._wait_for(lambda: self.store.add(key, 0) >= self.size)
        if not self.grouped:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            where = dist.PrefixStore(f"{self.session}/group", self.store)
            dist.init_process_group(backend, store=where, rank=self.rank, world_size=self.size, timeout=LIMIT)
            self.grouped = True

    def report(self, message: str, exit_code: int, tells: bool) -> bool:
        """Record that this process failed; returns whether it is the first.

        tells: whether it prints the message. A process that follows first gives the leader time to report the same failure.
        """
        end = time.monotonic() + (0 if self.leads else PATIENCE)
        while not self.store.check(["failure"]) and time.monotonic() < end:
            time.sleep(POLL)
        first = int(self.store.add("failures", 1)) == 1
        if first:
            found = {"message": message, "exit_code": exit_code, "told": tells, "rank": self.rank}
            self.store.set("failure", json.dumps(found))
        return first

    def failure(self) -> EndedElsewhere | None:
        """What a process reported that failed, if one did."""
        try:
            if not self.store.check(["failure"]):
                return None
            found = json.loads(self.store.get("failure"))
        except RuntimeError:  # the store ended with the process that owned it
            return EndedElsewhere(f"the first of the {self.size} processes ended", told=False)
        where = f"process {found['rank']} of {self.size}"
        return EndedElsewhere(f"{where}: {found['message']}", found["exit_code"], found["told"])

    def _wait_for(self, there: Callable[[], bool]) -> None:
        while not there():
            if (failure := self.failure()) is not None:
                raise failure
            time.sleep(POLL)

    def leave(self) -> None:
        """End the session: the process group is destroyed in all processes together, and the leader, who may own the
        store, leaves last.
        """
        if self.grouped:
            self.grouped = False
            dist.destroy_process_group()
        self.part()

    def part(self) -> None:
        """Leave without the others, after a failure. The first process still waits for them to read it, for a while: it may
        own the store, and a launcher stops all once it has ended.
        """
        end = time.monotonic() + GOODBYE
        with suppress(RuntimeError):  # the store may have ended
            self.store.add("left", 1)
            while self.leads and self.store.add("left", 0) < self.size and time.monotonic() < end:
                time.sleep(POLL)

    # Exchanges: every process calls the same functions in the same order

    def exchanged(self, vector: Tensor) -> Tensor:
        """Send piece r of `vector` (size equal pieces) to process r; returns the pieces received, in order of the senders."""
        found = torch.empty_like(vector)
        self._run(dist.all_to_all_single, found, vector)
        return found

    def largest(self, vector: Tensor) -> Tensor:
        """Return the largest value of each element over the processes."""
        found = vector.clone()
        self._run(dist.all_reduce, found, op=dist.ReduceOp.MAX)
        return found

    def added(self, array: np.ndarray) -> np.ndarray:
        """Return the sum of arrays of which each element is non-zero in one process at most."""
        found = torch.from_numpy(array.copy())
        self._run(dist.all_reduce, found)
        return found.numpy()

    def agreed(self, number: int) -> int:
        """Return the largest of a number of each process."""
        return int(self.largest(torch.tensor([number]))[0])

    def gathered(self, value: Any) -> list[Any]:
        """Return a JSON value of each process."""
        own = json.dumps(value).encode()
        longest = self.agreed(len(own))
        padded = torch.frombuffer(bytearray(own.ljust(longest)), dtype=torch.uint8)
        found = self.exchanged(padded.repeat(self.size)).view(self.size, longest)
        return [json.loads(one.numpy().tobytes()) for one in found]

    def shared(self, value: Any) -> Any:
        """Return the leader's JSON value."""
        return self.gathered(value if self.leads else None)[0]

    def shared_tensors(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Return the leader's tensors by name, on the CPU."""
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or {}).items()}
        about = self.shared({name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in own.items()})
        for name, (dtype, shape) in about.items():
            found = own[name] if self.leads else torch.empty(shape, dtype=getattr(torch, dtype))
            if found.numel():
                self._run(dist.broadcast, found.view(-1).view(torch.uint8), src=0)
            own[name] = found
        return {name: own[name] for name in about}

    def _run(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Run a collective operation. Raises EndedElsewhere if it fails because another process ended."""
        try:
            operation(*arguments, **options)
        except RuntimeError as error:
            end = time.monotonic() + 2 * PATIENCE  # the other process may be about to report why
            while time.monotonic() < end:
                if (failure := self.failure()) is not None:
                    raise failure from None
                time.sleep(POLL)
            raise Failure(f"another of the {self.size} processes of this training ended ({str(error)[:200]})") from None


@cache
def _store(launch: Launch) -> dist.Store:
    """Return the key-value store of the launcher, or that of the first process if the launcher has none."""
    own = launch.leads and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = dist.TCPStore(
        launch.address, launch.port, is_master=own, wait_for_workers=False, timeout=LIMIT, multi_tenant=True
    )
    return dist.PrefixStore(f"/attempt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
