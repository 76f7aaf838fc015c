"""The RayJob: what runs where, with what, and whether Kubernetes would take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from launcher.errors import UserError
from launcher.job import Given
from launcher.kuberay import kuberay_yaml
from launcher.nodes import cluster_job

FULL = {
    "gpus_per_node": 4,
    "env": {"NCCL_DEBUG": "INFO", "STEPS": "5"},
    "kuberay": {
        **{"image": "registry/team/image:1", "namespace": "training", "service_account": "ray"},
        **{"queue": "gpus", "ttl_seconds": 60, "head": {"cpu": 0.5, "memory": "2Gi"}},
        "worker": {
            **{"cpu": "16", "memory": "64Gi", "gpu_resource": "nvidia.com/mig-1g.10gb"},
            "node_selector": {"gpu-type": "h100"},
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
            ],
        },
    },
}


def text(
    gpus: int,
    /,
    *arguments: str,
    values: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    **settings: Given,
) -> str:
    job = cluster_job(
        values or {},
        {"gpus": Given(gpus, "--gpus"), **settings},
        arguments,
        environ or {},
        name=None,
        extra="ddp",
        origin="c.yaml:{}".format,
    )
    return kuberay_yaml(values or {}, job)


def manifest(*args: Any, **options: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text(*args, **options))
    return loaded


def cluster(ray_job: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The head's group, and the workers'."""
    spec = ray_job["spec"]["rayClusterSpec"]
    (workers,) = spec["workerGroupSpecs"]
    return spec["headGroupSpec"], workers


def container(group: Mapping[str, Any]) -> dict[str, Any]:
    (only,) = group["template"]["spec"]["containers"]
    return dict(only)


def test_every_worker_pod_is_full_and_the_head_has_no_worker() -> None:
    head, workers = cluster(manifest(16))
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert [workers[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [2, 2, 2]
    assert workers["rayStartParams"] == {"num-gpus": "8"}
    amounts = {"cpu": "32", "memory": "128Gi", "nvidia.com/gpu": "8"}
    assert container(workers)["resources"] == {"requests": amounts, "limits": amounts}
    assert "nvidia.com/gpu" not in container(head)["resources"]["limits"]


def test_cpu_workers_get_cores_and_no_gpu() -> None:
    ray_job = manifest(4, device=Given("cpu", "--device"), values={"cpus_per_worker": 1.5})
    _, workers = cluster(ray_job)
    assert workers["rayStartParams"] == {}
    assert container(workers)["resources"]["limits"] == {"cpu": "6", "memory": "16Gi"}
    assert "gpu" not in container(workers)["image"]


def test_the_launcher_runs_in_the_cluster_with_its_own_arguments() -> None:
    assert (
        manifest(2, "--gpus", "2", "train.py", "a b")["spec"]["entrypoint"]
        == "python -m launcher --address auto --gpus 2 train.py 'a b'"
    )


def test_settings_of_the_file_and_of_variables_reach_the_launcher() -> None:
    ray_job = manifest(
        8,
        "--model",
        "mlp",
        values={"gpus": 8, "device": "cuda", "min_gpus": 4},
        environ={"TROIKA_EPOCHS": "5", "TROIKA_DEVICE": "cuda"},
        gpus=Given(8, "c.yaml:gpus"),
        device=Given("cuda", "TROIKA_DEVICE"),
        min_gpus=Given(4, "c.yaml:min_gpus"),
        epochs=Given(5, "TROIKA_EPOCHS"),
    )
    assert ray_job["spec"]["entrypoint"] == (
        "env TROIKA_DEVICE=cuda TROIKA_EPOCHS=5 python -m launcher --address auto "
        "--gpus 8 --min-gpus 4 --model mlp"
    )


def test_the_cluster_goes_away_with_the_job() -> None:
    spec = manifest(2)["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert (spec["ttlSecondsAfterFinished"], spec["backoffLimit"]) == (600, 0)


def test_what_the_file_says_of_pods_is_in_them() -> None:
    ray_job = manifest(8, values=FULL)
    head, workers = cluster(ray_job)
    pod = workers["template"]["spec"]
    assert ray_job["metadata"] == {
        "name": "troika-ddp",
        "namespace": "training",
        "labels": {"kueue.x-k8s.io/queue-name": "gpus"},
    }
    assert ray_job["spec"]["ttlSecondsAfterFinished"] == 60
    assert container(head)["resources"]["limits"] == {"cpu": "0.5", "memory": "2Gi"}
    limits = {"cpu": "16", "memory": "64Gi", "nvidia.com/mig-1g.10gb": "4"}
    assert container(workers)["resources"]["limits"] == limits
    assert container(workers)["env"] == [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "STEPS", "value": "5"},
    ]
    assert (pod["nodeSelector"], pod["serviceAccountName"]) == ({"gpu-type": "h100"}, "ray")
    assert pod["tolerations"] == FULL["kuberay"]["worker"]["tolerations"]  # type: ignore[index]
    assert {container(group)["image"] for group in (head, workers)} == {"registry/team/image:1"}


def test_shared_memory_is_not_the_small_one_of_a_container() -> None:
    for group in cluster(manifest(2)):
        (volume,) = group["template"]["spec"]["volumes"]
        assert volume["emptyDir"] == {"medium": "Memory"}
        assert container(group)["volumeMounts"] == [
            {"name": volume["name"], "mountPath": "/dev/shm"}
        ]


def test_the_first_lines_say_what_the_image_needs_and_what_is_not_used() -> None:
    values = {"labels": {"zone": "a"}, "placement": "spread"}
    script = Given(["train.py"], "SCRIPT")
    lines = text(16, "train.py", values=values, script=script).splitlines()
    assert lines[0].startswith("# 16 GPUs: 2 nodes with 8 each")
    assert "#   RUN pip install 'troika-launcher[ddp,ray]'" in lines
    assert "# and train.py where its WORKDIR is." in lines
    assert "# Not used here, the Ray is this job's own: labels, placement." in lines


def test_workers_that_do_not_fill_their_nodes_are_refused_with_what_would() -> None:
    with pytest.raises(UserError, match=r"gpus 12 \(--gpus\): .* nodes of 8 .*default.*: 6 .* 16 "):
        text(12)
    with pytest.raises(UserError, match=r"gpus 6 .* nodes of 4 \(gpus_per_node, c\.yaml:gpus_per"):
        text(6, values={"gpus_per_node": 4})


def test_kubernetes_takes_the_pods() -> None:
    kubernetes = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    for group in cluster(manifest(8, values=FULL)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes.validate(pod, "1.37", strict=True)
