"""Who does the scans: this process, worker processes here, or the workers of a running scheduler (floor 4)."""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from ..errors import CycleINRError, MissingPackageError, RequestError, ResourceError
from ..machine import usable_cores
from .order import Order, Outcome, told
from .task import do_scan
from .turns import AT_ONCE

HERE = "127.0.0.1"
WORKER_BYTES = 3e9  # free memory that a worker is started for, where their number is not given
WORKER_CORES = 4  # and cores
LEAST_BYTES = 1e9  # that torch and a small scan need: no worker is ended for less
LEAVE_S = 5.0  # that a scan here gets to end which nobody wants any more
MOST_STARTS = 5  # of workers that end at once
MORE_MEMORY = "give it more memory, or use fewer workers"
QUIET = {  # of Dask, for as long as a batch runs
    "distributed.worker.memory.target": False,  # nothing is spilled to a disk
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,  # of a worker's share
    "distributed.scheduler.allowed-failures": 0,  # a killed worker comes back to us at once, and we count
    "distributed.scheduler.worker-saturation": 1.0,  # no worker holds a scan that it does not compute
    "distributed.scheduler.work-stealing": False,
    "distributed.admin.tick.limit": "1 day",
    "distributed.nanny.pre-spawn-environ": {},  # the threads are ours to share out
    "distributed.comm.timeouts.connect": "30s",
    "distributed.deploy.lost-worker-timeout": "1000 days",  # a worker that starts slowly is not given up
}


class Pool(Protocol):
    """Takes orders while there is room, and gives what came of them."""

    @property
    def running(self) -> int:
        """Orders that are not answered yet."""

    @property
    def room(self) -> int:
        """Orders that it takes at a time."""

    @property
    def dashboard(self) -> str | None:
        """Where its work is shown."""

    def submit(self, order: Order) -> None:
        """Takes an order."""

    def next(self, timeout_s: float) -> tuple[Order, Outcome] | None:
        """What came of an order; None where nothing ended in that time."""


class InProcess:
    """One scan after another here, or `beside` of them side by side as `turns` lets them."""

    dashboard: str | None = None

    def __init__(self, beside: int = 1) -> None:
        self.room, self.running = beside, 0
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[tuple[Order, Outcome]] = queue.SimpleQueue()
        # not this thread, which hears Ctrl-C; daemons, since nobody waits for them where it comes twice
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(beside)]
        for thread in self._threads:
            thread.start()

    def submit(self, order: Order) -> None:
        self.running += 1
        self._orders.put(order)

    def next(self, timeout_s: float) -> tuple[Order, Outcome] | None:
        try:
            ended = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self.running -= 1
        return ended

    def close(self) -> None:
        """Ends the threads; one that still computes, though nobody wants it, is not waited for long."""
        for _ in self._threads:
            self._orders.put(None)
        end = time.monotonic() + LEAVE_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            self._ended.put((order, do_scan(order)))


class OnDask:
    """The workers of a Dask scheduler, each of which takes a scan for each of its threads."""

    def __init__(self, client: Any, dashboard: str | None, keeper: _Keeper | None = None) -> None:
        self.client, self.dashboard, self._keeper = client, dashboard, keeper
        self._futures: dict[Any, Order] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @property
    def running(self) -> int:
        return len(self._futures)

    @property
    def room(self) -> int:
        """One scan for each thread of the workers there are now, and one that waits for them."""
        return max(1, sum(self.client.nthreads().values()) if self._is_well() else 0) + 1

    def submit(self, order: Order) -> None:
        key = f"scan-{order.scan}-{order.attempt}-{order.token}"
        future = self.client.submit(do_scan, order, key=key, pure=False, retries=0)
        self._futures[future] = order
        future.add_done_callback(self._ended.put)

    def next(self, timeout_s: float) -> tuple[Order, Outcome] | None:
        """What came of an order; None where nothing ended in that time.

        Raises
        ------
        ResourceError : the scheduler is gone, or workers end before they begin anything
        RequestError : a worker lacks CycleINR
        """
        if self._keeper is not None:
            self._keeper.look()
        try:
            future = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            if not self._is_well():
                raise ResourceError("The scheduler is gone", "no connection", "start it, then add --resume") from None
            return None
        order = self._futures.pop(future)
        if future.status == "finished":
            if self._keeper is not None:
                self._keeper.failures = 0
            return order, future.result()
        return order, _lost(order, future)

    def _is_well(self) -> bool:
        return self.client.status == "running"


class _Keeper:
    """Starts workers anew that Dask gave up, as it does where one is killed while it starts."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.failures = cluster, 0

    def look(self) -> None:
        """A ResourceError where none of them holds."""
        if not self.cluster.sync(self._drop):
            return
        self.failures += 1
        if self.failures > MOST_STARTS:
            raise _cannot_start(f"{self.failures} times in a row")
        self.cluster.scale(len(self.cluster.worker_spec))

    async def _drop(self) -> list[Any]:
        """Forgets workers that ended for good."""
        workers = self.cluster.workers
        ended = [name for name, nanny in workers.items() if nanny.status.name in ("closed", "failed")]
        for name in ended:
            del workers[name]
        return ended


def _cannot_start(found: str) -> ResourceError:
    return ResourceError("The worker processes end while they start", found, "use fewer, or --workers 0, and --resume")


def _lost(order: Order, future: Any) -> Outcome:
    """What a task that gave nothing back means."""
    error = None if future.status in ("cancelled", "lost") else future.exception()
    if error is None:
        return Outcome(order.scan, "stopped")
    if isinstance(error, ImportError):
        raise RequestError(
            "A worker cannot load CycleINR", str(error.name or error), "install the same version for every worker"
        ) from error
    ended = type(error).__name__ == "KilledWorker"
    what = (
        ResourceError("The worker ended while it had this scan", "killed, as where memory runs out", MORE_MEMORY)
        if ended
        else CycleINRError("CycleINR met an error of its own", type(error).__name__, "upsample this scan alone")
    )
    return Outcome(order.scan, "lost" if ended else "failed", error=told(what), again=True)


@contextlib.contextmanager
def pool_of(workers: int | None, scheduler: str | None, home: Path, tell: Callable[[str], None]) -> Iterator[Pool]:
    """The pool that is asked for.

    Parameters
    ----------
    workers : processes on this machine; 0: none but this one; None: as many as cores, memory and GPUs suggest
    scheduler : address of a running scheduler, tcp:// or tls://
    home : a private folder for what worker processes put on a disk; whoever made it removes it

    Raises
    ------
    MissingPackageError : Dask is asked for and not installed
    ResourceError : the scheduler does not answer
    """
    if scheduler is None and workers is None:
        workers = usual_workers() if has_dask() else 0
        if not has_dask():
            tell('One scan after another in this process; pip install "CycleINR[batch]" brings worker processes.')
    if scheduler is None and not workers:
        with contextlib.closing(InProcess(side_by_side(usable_cores(), visible_gpus()))) as here:
            yield here
        return
    if not has_dask():
        raise MissingPackageError(
            "The package distributed is needed for workers and not installed",
            "--scheduler" if scheduler else f"--workers {workers}",
            'pip install "CycleINR[batch]"; without it one scan is done after another',
        )
    with _remote(scheduler) if scheduler else _local(int(workers or 1), home) as pool:
        yield pool


def has_dask() -> bool:
    return all(importlib.util.find_spec(name) for name in ("distributed", "cryptography"))


def usual_workers() -> int:
    """One for each GPU; without one, as many as have four cores and 3 GB each; 0, this process, instead of one."""
    if gpus := visible_gpus():
        return len(gpus)
    from ..upsampling.memory import available_memory_bytes

    memory = available_memory_bytes()
    fitting = int(memory / WORKER_BYTES) if memory < float("inf") else 1
    count = min(usable_cores() // WORKER_CORES, fitting)
    return count if count > 1 else 0


def visible_gpus() -> list[str]:
    """NVIDIA devices as CUDA_VISIBLE_DEVICES names them, without loading torch."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [one.strip() for one in told.split(",") if one.strip() not in ("", "-1")]
    return [str(n) for n in range(len(glob.glob("/proc/driver/nvidia/gpus/*")))]


def environment_of(worker: int, workers: int, all_cores: int, gpus: list[str]) -> dict[str, str]:
    """Threads that fit the cores together, and a GPU for each worker in turn."""
    threads = str(threads_of(worker, workers, all_cores))
    found = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    if gpus:
        found["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)]
    return found


def threads_of(worker: int, workers: int, all_cores: int) -> int:
    """The share of a worker; the first ones get what is left over."""
    return max(1, all_cores // workers + (worker < all_cores % workers))


def side_by_side(threads: int, gpus: list[str]) -> int:
    """Scans that a worker holds at a time: with one thread it has nothing idle while it reads or writes."""
    return AT_ONCE if threads > 1 or gpus else 1


@contextlib.contextmanager
def _local(workers: int, home: Path) -> Iterator[Pool]:
    """A scheduler in this process and worker processes, on the loopback device alone, with keys of their own."""
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster
    from distributed.security import Security

    folder = str(home / "workers")
    gpus, all_cores = visible_gpus(), usable_cores()
    with dask.config.set({**QUIET, "temporary-directory": folder}), _silence():
        security = Security.temporary()
        common = {"host": HERE, "security": security}
        workers_of = {}
        for n in range(workers):
            at_once = side_by_side(threads_of(n, workers, all_cores), gpus)
            options = {
                **common, "nthreads": at_once, "memory_limit": _share_of_memory(workers), "local_directory": folder,
                "env": environment_of(n, workers, all_cores, gpus), "dashboard": False, "silence_logs": 50,
                "name": f"worker-{n}",
            }  # fmt: skip
            workers_of[n] = {"cls": Nanny, "options": options}
        scheduler = {"cls": Scheduler, "options": {**common, "port": 0, "dashboard_address": f"{HERE}:0"}}

        def begin(tries: int = MOST_STARTS) -> Any:
            try:
                return SpecCluster(workers_of, scheduler, security=security, silence_logs=50)
            except (OSError, RuntimeError, TimeoutError) as error:  # one was killed while it started
                if not tries:
                    raise _cannot_start(str(error).splitlines()[0]) from error
            return begin(tries - 1)

        with begin() as cluster, Client(cluster, set_as_default=False) as client:
            yield OnDask(client, cluster.dashboard_link, _Keeper(cluster))


@contextlib.contextmanager
def _remote(address: str) -> Iterator[Pool]:
    """A scheduler that runs already; the keys of tls:// are those of Dask's configuration."""
    import dask
    from distributed import Client

    if not address.startswith(("tcp://", "tls://")):
        raise RequestError(
            "The address of the scheduler is unknown", address, "give tls://HOST:PORT or tcp://HOST:PORT"
        )
    with dask.config.set({"distributed.comm.timeouts.connect": "30s"}), _silence():
        try:
            client = Client(address, set_as_default=False, timeout=30, name="cycleinr-batch")
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            found = f"{address}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            raise ResourceError(
                "The scheduler does not answer", found, "check the address, and its keys for tls://"
            ) from error
        with client:
            yield OnDask(client, client.dashboard_link or None)


def _share_of_memory(workers: int) -> int:
    """What a worker may take before it is ended and its scan tried again: its part of what is free; 0: any."""
    from ..upsampling.memory import available_memory_bytes

    memory = available_memory_bytes()
    return int(max(memory / workers, LEAST_BYTES)) if memory < float("inf") else 0


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Dask's own talk stays off stderr: it is no event, and it names what it handles."""
    import logging

    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio", "bokeh")]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in zip(loggers, before):
            one.setLevel(level)
