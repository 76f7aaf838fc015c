"""``manifest slurm``: an sbatch script that starts a Ray cluster over its allocation. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from launcher.errors import UserError
from launcher.nodes import OF_A_READY_RAY, ClusterJob

JOIN_S = 300
_NOTICE_S = 60  # before the time limit: enough to stop the workers and to write the report
_RAYS_PORTS = range(10002, 20000)
_DIRECTIVES = ("partition", "account", "qos", "time", "constraint")
# Two jobs may share a node, and Ray's other ports are elsewhere.
_PORT_OF_THE_JOB = "$((20000 + SLURM_JOB_ID % 10000))"


def slurm_script(
    values: Mapping[str, Any],
    job: ClusterJob,
    *,
    origin: Callable[[str], str],
    join_s: int = JOIN_S,
) -> str:
    """The script for ``job``; ``values`` are the cluster file's. Raises UserError.

    ``origin`` says where in the file a key stands; the nodes have ``join_s`` seconds to join.
    """
    slurm = values.get("slurm", {})
    cores = slurm.get("cpus_per_node", job.whole_cores)
    variables = {**values.get("env", {}), **job.variables}
    amounts = f"--num-cpus={cores} --num-gpus={job.per_node if job.on_gpus else 0}"
    decided = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in _options(slurm, job, cores)),
        "",
        *(f"# {line}" for line in _notes(values, job)),
        "# shellcheck disable=SC2317  # srun and trap call the functions",
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        f"training=({shlex.join(job.arguments)})",
        f"nodes={job.nodes}",
        f"port={_port(slurm, origin)}",
        f"amounts=({amounts})",
        f"step=(--export=ALL --kill-on-bad-exit=0 --cpus-per-task={cores})",
        f"patience={join_s}",
        "setup() {",
        *(f"  {line}" for line in slurm.get("setup", ())),
        "  :",
        "}",
    ]
    return "\n".join(decided) + _STEPS


def _options(slurm: Mapping[str, Any], job: ClusterJob, cores: int) -> list[str]:
    options = [f"--job-name={job.name}", f"--nodes={job.nodes}", "--ntasks-per-node=1"]
    options.append(f"--cpus-per-task={cores}")
    if job.on_gpus:
        options.append(f"--gpus-per-node={job.per_node}")
    if "memory" in slurm:
        options.append(f"--mem={slurm['memory']}")
    options += [f"--{key}={shlex.quote(slurm[key])}" for key in _DIRECTIVES if key in slurm]
    return [*options, f"--signal=B:TERM@{_NOTICE_S}", *slurm.get("options", ())]


def _notes(values: Mapping[str, Any], job: ClusterJob) -> list[str]:
    notes = [
        f"{job.summary()} each; start it with: sbatch FILE",
        f"Every node needs this folder, and after setup: 'troika-launcher[{job.extra},ray]'.",
    ]
    unused = [key for key in OF_A_READY_RAY if key in values]
    return notes + [f"Not used here, the Ray is this job's own: {', '.join(unused)}."] * bool(
        unused
    )


def _port(slurm: Mapping[str, Any], origin: Callable[[str], str]) -> str:
    port = slurm.get("ray_port")
    if port in _RAYS_PORTS:
        raise UserError(
            f"ray_port {port} ({origin('slurm.ray_port')}): Ray gives its own workers the ports "
            f"{_RAYS_PORTS.start} to {_RAYS_PORTS.stop - 1}; take 6379, or one of 20000 to 29999"
        )
    return _PORT_OF_THE_JOB if port is None else str(port)


_STEPS = r"""

# What follows is the same for all jobs. It runs on the first node.

say() {
  echo "job $SLURM_JOB_ID: $*" >&2
}

# One of Ray's nodes, until SIGTERM. `ray stop` would end the Ray of other jobs here too.
ray_node() {
  setup
  folder=
  trap '[ -z "$!" ] || { kill -TERM "$!"; wait "$!"; } 2>/dev/null; rm -rf "$folder"' EXIT
  trap 'exit 143' TERM
  folder=$(mktemp -d /tmp/troika-slurm-XXXXXX) || exit  # a short path: Ray has its sockets there
  # Ports that the system chooses: two jobs may share a node.
  ray start --block --temp-dir="$folder" --min-worker-port=0 --max-worker-port=0 \
    --dashboard-agent-listen-port=0 "$@" >/dev/null &
  wait "$!"
}

ray_head() {
  ray_node --head --node-ip-address="$HEAD_ADDRESS" --port="$HEAD_PORT" \
    --include-dashboard=false "$@"
}

ray_other() {
  until (: <"/dev/tcp/$HEAD_ADDRESS/$HEAD_PORT") 2>/dev/null; do
    sleep 0.5
  done
  ray_node --address="$HEAD_ADDRESS:$HEAD_PORT" "$@"
}

all_nodes_joined() {
  exec python - "$HEAD_ADDRESS" "$HEAD_PORT" "$nodes" "$patience" <<'END'
import socket
import sys
import time

host, port, nodes, patience = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
deadline = time.monotonic() + patience
joined = []


def pause():
    if time.monotonic() > deadline:
        there = ", ".join(joined) or "none"
        sys.exit(f"{len(joined)} of {nodes} nodes have joined Ray within {patience} s: {there}")
    time.sleep(0.2)


while True:
    try:
        socket.create_connection((host, port), timeout=5).close()
        break
    except OSError:
        pause()

import ray

ray.init(f"{host}:{port}", logging_level="error", log_to_driver=False)
while len(joined) < nodes:
    joined = [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]
    if len(joined) < nodes:
        pause()
END
}

running=  # the number of what this script waits for: it ends before Ray does
stop() {
  trap '' TERM INT HUP
  if [ -n "$running" ]; then
    kill -TERM "$running" 2>/dev/null
    wait "$running"
  fi
  mapfile -t left < <(jobs -p)
  kill -TERM "${left[@]}" 2>/dev/null
  wait
}
trap stop EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP

setup
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*}
address=$(getent ahostsv4 "$head" | awk '!/^127\./ { print $1; exit }')
export HEAD_ADDRESS=${address:-$(hostname -I | awk '{ print $1 }')}
export HEAD_PORT=$port
if [ -z "$HEAD_ADDRESS" ]; then
  say "$head has no address but that of its loopback interface; the other nodes need one"
  exit 1
fi
# Only this job may use this Ray. Slurm takes the token to the nodes, in the environment.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0  # nothing is left to wait for when Ray is stopped
unset RAY_ADDRESS
export -f setup ray_node ray_head ray_other

srun "${step[@]}" --nodes=1 --ntasks=1 --nodelist="$head" \
  bash -c 'ray_head "$@"' ray_head "${amounts[@]}" &
if [ "$nodes" -gt 1 ]; then
  srun "${step[@]}" --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --exclude="$head" \
    bash -c 'ray_other "$@"' ray_other "${amounts[@]}" &
fi

all_nodes_joined &
running=$!
wait -n
code=$?
if kill -0 "$running" 2>/dev/null; then
  say "Ray has ended on a node before all $nodes had joined; the lines above say why"
  exit 1
fi
[ "$code" -eq 0 ] || exit 1

python -m launcher --address "$HEAD_ADDRESS:$HEAD_PORT" "${training[@]}" &
running=$!
wait "$running"
code=$?
running=
exit "$code"
"""
