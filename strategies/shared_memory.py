"""Means of gradients between the processes of one host, through shared memory.

Gloo moves 100,000 floats between two processes of a host in 1 to 2 ms, over sockets; two memory
copies take under 0.1 ms, and for a small model on CPUs that difference is most of a step. Each
rank owns an equal part of the vector: all write their gradients where the owner finds them, the
owner adds them up, all copy the owner's means back (reduce-scatter, then all-gather; Thakur et
al., "Optimization of collective communication operations in MPICH", 2005, section 4).

Every element is added up by one rank in rank order, so that all ranks get the same bits.
"""

# No postponed annotations here: DistributedDataParallel looks at those of its hook.
import mmap
import os
import platform
import time

import torch
import torch.distributed as dist

_LINE = 64  # bytes of a cache line: two ranks' flags never share one
_PAGE = 4096
_SPINS_ALONE = 2000  # about 0.1 ms of looking before the core is offered to others
_YIELDS = 2000
_NAP_S = 5e-5


class SharedMemoryMean:
    """Replaces a float32 vector of up to ``size`` elements by its mean over the ranks.

    ``rank`` and ``world_size`` are of one host. ``spin`` says that every rank has a core of its
    own, so that waiting may keep it busy. A rank that waits for ``timeout_s`` raises
    TimeoutError naming the ranks that did not come.

    The memory has no name in any folder: nothing is left behind, however the processes end.
    """

    def __init__(
        self, size: int, rank: int, world_size: int, *, spin: bool, timeout_s: float = 1800.0
    ) -> None:
        self._rank, self._world_size, self._timeout_s = rank, world_size, timeout_s
        self._spins = _SPINS_ALONE if spin else 0
        self._round = 0
        flags = _pages(2 * world_size * _LINE)
        row = _pages(size * 4)
        memory = _shared(flags + (world_size + 1) * row, rank)
        view = memoryview(memory)
        self._written = view[: world_size * _LINE].cast("q")[:: _LINE // 8]
        self._reduced = view[world_size * _LINE : 2 * world_size * _LINE].cast("q")[:: _LINE // 8]
        floats = torch.frombuffer(memory, dtype=torch.float32, offset=flags)
        rows = floats.view(world_size + 1, row // 4)
        self._slots, self._means = rows[:world_size], rows[world_size]
        self._others = [other for other in range(world_size) if other != rank]

    def __call__(self, vector: torch.Tensor) -> None:
        """Replaces ``vector`` (float32 [n], n at most ``size``, the same on all ranks) in place."""
        self._round += 1
        size, world = vector.numel(), self._world_size
        edges = [size * owner // world for owner in range(world + 1)]
        for owner in self._others:
            low, high = edges[owner], edges[owner + 1]
            self._slots[self._rank, low:high].copy_(vector[low:high])
        self._written[self._rank] = self._round
        self._wait(self._written)
        low, high = edges[self._rank], edges[self._rank + 1]
        mine, total = vector[low:high], self._means[low:high]
        for index, other in enumerate(range(world)):
            part = mine if other == self._rank else self._slots[other, low:high]
            total.copy_(part) if index == 0 else total.add_(part)
        mine.copy_(total.mul_(1 / world))
        self._reduced[self._rank] = self._round
        self._wait(self._reduced)
        for owner in self._others:
            low, high = edges[owner], edges[owner + 1]
            vector[low:high].copy_(self._means[low:high])

    def hook(self, state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """The communication hook for DistributedDataParallel.register_comm_hook."""
        gradients = bucket.buffer()
        self(gradients)
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(gradients)
        return future

    def _wait(self, flags: memoryview) -> None:
        for other in self._others:
            looks = 0
            deadline = 0.0
            while flags[other] < self._round:
                looks += 1
                if looks <= self._spins:
                    continue
                if looks <= self._spins + _YIELDS:
                    os.sched_yield()
                    continue
                time.sleep(_NAP_S)
                deadline = deadline or time.monotonic() + self._timeout_s
                late = [str(rank) for rank in self._others if flags[rank] < self._round]
                if late and time.monotonic() > deadline:
                    raise TimeoutError(
                        f"rank {self._rank} waited {self._timeout_s:g} s for the gradients of "
                        f"rank {', '.join(late)} (exchange {self._round})"
                    )


def unsupported_reason(world_size: int, *, one_host: bool, cuda: bool) -> str | None:
    """Why gradients cannot go through shared memory; None if they can."""
    if world_size == 1:
        return "one worker has nobody to exchange with"
    if cuda:
        return "the gradients are on GPUs"
    if not one_host:
        return "the workers are on several hosts"
    if platform.machine() not in ("x86_64", "AMD64"):
        # Flags and data are plain stores: only a total store order keeps them in sequence.
        return f"{platform.machine()} may reorder stores to memory"
    return None


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _shared(size: int, rank: int) -> mmap.mmap:
    """The same ``size`` zeroed bytes in all ranks: an anonymous file of rank 0's.

    The others open it through /proc, so that it never has a name to leave behind, and Docker's
    64 MB of /dev/shm do not limit it.
    """
    place: list[str | None] = [None]
    if rank == 0:
        descriptor = os.memfd_create("troika-gradients")
        os.ftruncate(descriptor, size)
        place[0] = f"/proc/{os.getpid()}/fd/{descriptor}"
    dist.broadcast_object_list(place)
    if rank != 0:
        descriptor = os.open(str(place[0]), os.O_RDWR)
    memory = mmap.mmap(descriptor, size)
    dist.barrier()
    os.close(descriptor)
    return memory
