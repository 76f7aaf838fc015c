"""A Ray of this job's own on this host, with as few processes as it takes; ends with the job.

Only this module knows Ray's insides. ``ray.init`` starts three Python processes that nobody here
asks anything (dashboard, autoscaler, log monitor: half a second of a core each), and then asks only
once a second whether its raylet is up. Should a later Ray have other names for these, it starts
them again, and nothing else changes. What remains: gcs_server, the raylet, two agents that it
cannot do without, and one process for each actor.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from clusters.guard import descendants, send_all
from clusters.ray_holder import Holder

_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's least is 75 MiB; it is a sparse file, and nothing uses it
_POLL_S = 0.02
_START_S = 60.0
_REMOVE_S = 2.0
_TAIL_BYTES = 4000


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables for the process that starts Ray: ours instead of any RAY_ variable.

    Ray's servers then listen on the loopback interface alone, as they do on macOS, and ask for a
    token that only this job knows. No usage reports; and Ray does not kill actors, which need next
    to nothing, because a worker fills the memory.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith("RAY_")}
    return kept | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
    }


def start_ray(folder: Path, bundles: list[dict[str, float]]) -> Any:
    """Starts Ray with just the resources of ``bundles``, and a placement group of them.

    ``folder`` takes all of Ray's files; its path may have 36 bytes (Ray's sockets lie below it).
    Call it from the main thread: Ray's processes end with the thread that has started them.
    Raises whatever Ray raises.
    """
    import ray
    from ray._private.node import Node
    from ray.util.placement_group import placement_group

    start_raylet = Node.start_raylet

    def start_raylet_and_wait(node: Any, *args: Any, **options: Any) -> None:
        start_raylet(node, *args, **options)
        deadline = time.monotonic() + _START_S
        while not node.get_gcs_client().get_all_node_info():
            if "raylet" not in servers():
                raise RuntimeError("its raylet has ended")
            if time.monotonic() > deadline:
                raise RuntimeError(f"its raylet has not come up within {_START_S:.0f} s")
            time.sleep(_POLL_S)

    Node.start_raylet = start_raylet_and_wait
    for name in ("start_monitor", "start_api_server", "start_log_monitor"):
        setattr(Node, name, lambda _node, **_options: None)
    ray.init(
        num_cpus=int(sum(bundle["CPU"] for bundle in bundles)),
        num_gpus=int(sum(bundle["GPU"] for bundle in bundles)),
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(folder),
        _plasma_directory=str(folder),
    )
    return placement_group(bundles, strategy="PACK")


def holder(group: Any, rank: int) -> Any:
    """An actor that holds the bundle of ``rank``, for one worker."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle = group.bundle_specs[rank]
    where = PlacementGroupSchedulingStrategy(
        placement_group=group, placement_group_bundle_index=rank
    )
    options = {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0)}
    return ray.remote(Holder).options(scheduling_strategy=where, **options).remote()


def servers() -> dict[str, int]:
    """Ray's own servers below this process: gcs_server and raylet, with their numbers."""
    found: dict[str, int] = {}
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if name in ("gcs_server", "raylet"):
                found.setdefault(name, pid)
    return found


def print_logs(folder: Path) -> None:
    """Copies the ends of the servers' logs to this process's own, before ``folder`` goes."""
    for path in sorted(folder.glob("session_2*/logs/*")):
        if path.stem in ("gcs_server", "raylet") and path.stat().st_size:
            print(f"--- the end of Ray's {path.name}:", file=sys.stderr)
            print(path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace"), file=sys.stderr)


def end_ray(folder: Path) -> None:
    """Kills Ray's processes and removes ``folder``. Nothing of a job's own Ray is worth saving.

    Ray's processes are those of this process's session, but for its guard, which leads it. The
    workers' guards lead sessions of their own: they see their actor go, and end their worker.
    """
    session = os.getsid(0)
    deadline = time.monotonic() + _REMOVE_S
    while time.monotonic() < deadline:
        left = [pid for pid in all_pids() if _session(pid) == session and is_alive(pid)]
        left = [pid for pid in left if pid not in (os.getpid(), session)]
        send_all(left, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        if not left and not folder.exists():
            return
        time.sleep(_POLL_S)


def all_pids() -> list[int]:
    """The numbers of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def is_alive(pid: int) -> bool:
    """Whether a process runs. One whose main thread alone has ended does: it has its children."""
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        return state not in (b"Z", b"X") or len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    return False


def _session(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return None
