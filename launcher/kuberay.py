"""``manifest kuberay``: a RayJob, whose Ray cluster is made for one training. Pure.

KubeRay makes the pods, submits the entrypoint when all of them are up, and deletes the cluster
when it has ended.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from launcher.nodes import OF_A_READY_RAY, RAY_VERSION, ClusterJob

_GPU_IMAGE = f"rayproject/ray:{RAY_VERSION}-py311-gpu"
_CPU_IMAGE = f"rayproject/ray:{RAY_VERSION}-py311"
_HEAD = {"cpu": 2, "memory": "8Gi"}
_MEMORY_GI = {True: 16, False: 4}  # a worker's, on a GPU or not
_TTL_S = 600
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def kuberay_manifest(values: Mapping[str, Any], job: ClusterJob) -> dict[str, Any]:
    """The RayJob (ray.io/v1) for ``job``; ``values`` are the cluster file's.

    One worker pod is one of Ray's nodes. The head pod has no CPU for Ray to give away, so that no
    worker lands there.
    """
    kube = values.get("kuberay", {})
    metadata: dict[str, Any] = {"name": job.name}
    if "namespace" in kube:
        metadata["namespace"] = kube["namespace"]
    if "queue" in kube:
        metadata["labels"] = {_QUEUE_LABEL: kube["queue"]}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": _entrypoint(job),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": kube.get("ttl_seconds", _TTL_S),
            "backoffLimit": 0,
            "rayClusterSpec": {
                "rayVersion": RAY_VERSION,
                "authOptions": {"mode": "token"},
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"},
                    "template": _pod(kube, job, "ray-head", _HEAD | kube.get("head", {}), {}, {}),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": job.nodes,
                        "minReplicas": job.nodes,
                        "maxReplicas": job.nodes,
                        # KubeRay finds GPUs by itself only where the resource's name ends in "gpu".
                        "rayStartParams": {"num-gpus": str(job.per_node)} if job.on_gpus else {},
                        "template": _worker_pod(values, kube, job),
                    }
                ],
            },
        },
    }


def kuberay_yaml(values: Mapping[str, Any], job: ClusterJob) -> str:
    """The manifest as YAML, with what its reader must know at the top."""
    import yaml

    body = yaml.safe_dump(kuberay_manifest(values, job), sort_keys=False, width=100)
    return "".join(f"# {line}\n" for line in _notes(values, job)) + body


def _notes(values: Mapping[str, Any], job: ClusterJob) -> list[str]:
    notes = [
        f"{job.summary()} each; start it with: kubectl create -f FILE",
        "Needs KubeRay 1.5.1 or later: it makes the token without which nobody can use this Ray.",
        f"The image must have Ray {RAY_VERSION} and the code, for instance, in a Dockerfile:",
        f"  FROM {_image({}, job)}",
        f"  RUN pip install 'troika-launcher[{job.extra},ray]'",
    ]
    if job.script:
        notes.append(f"and {job.script} where its WORKDIR is.")
    notes += [
        "The run's folder (runs/...) is in the head pod and goes with it, ttlSecondsAfterFinished",
        "after the end: copy it with kubectl cp, or mount a volume and add --out.",
    ]
    unused = [key for key in OF_A_READY_RAY if key in values]
    if unused:
        notes.append(f"Not used here, the Ray is this job's own: {', '.join(unused)}.")
    return notes


def _entrypoint(job: ClusterJob) -> str:
    variables = [f"{name}={value}" for name, value in job.variables.items()]
    words = ["python", "-m", "launcher", "--address", "auto", *job.arguments]
    return shlex.join(["env", *variables, *words] if variables else words)


def _worker_pod(
    values: Mapping[str, Any], kube: Mapping[str, Any], job: ClusterJob
) -> dict[str, Any]:
    asked = kube.get("worker", {})
    memory = f"{_MEMORY_GI[job.on_gpus] * job.per_node}Gi"
    amounts = {"cpu": asked.get("cpu", job.cores), "memory": asked.get("memory", memory)}
    if job.on_gpus:
        amounts[asked.get("gpu_resource", "nvidia.com/gpu")] = job.per_node
    where = {
        key: asked[name]
        for key, name in (("nodeSelector", "node_selector"), ("tolerations", "tolerations"))
        if name in asked
    }
    return _pod(kube, job, "ray-worker", amounts, values.get("env", {}), where)


def _pod(
    kube: Mapping[str, Any],
    job: ClusterJob,
    name: str,
    amounts: Mapping[str, Any],
    env: Mapping[str, str],
    where: Mapping[str, Any],
) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": name,
        "image": _image(kube, job),
        "resources": {"requests": _quantities(amounts), "limits": _quantities(amounts)},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    if env:
        container["env"] = [{"name": key, "value": value} for key, value in env.items()]
    spec = {
        "containers": [container],
        # A container's own /dev/shm has 64 MB: too little for Ray, NCCL and data loaders.
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        **where,
    }
    if "service_account" in kube:
        spec["serviceAccountName"] = kube["service_account"]
    return {"spec": spec}


def _quantities(amounts: Mapping[str, Any]) -> dict[str, str]:
    """Kubernetes' quantities: text, so that YAML's 0.5 and 2 are not numbers of two kinds."""
    return {
        name: amount if isinstance(amount, str) else f"{amount:g}"
        for name, amount in amounts.items()
    }


def _image(kube: Mapping[str, Any], job: ClusterJob) -> str:
    default = _GPU_IMAGE if job.on_gpus else _CPU_IMAGE
    image: str = kube.get("image", default)
    return image
