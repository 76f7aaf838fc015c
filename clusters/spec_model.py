"""The keys of a cluster file: their types, and what they mean. The JSON schema follows from it.

Absent keys stay absent: defaults are the launcher's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

_WORD = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_DNS = r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_GPU = r"^(GPU|MIG)-[0-9a-zA-Z/-]+$"
_ADDRESS = rf"^(auto|(ray://)?([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\]):{_PORT})$"
_LABEL = rf"^({_DNS}(\.{_DNS})*/)?{_WORD}$"
_SELECTOR = rf"^!?({_WORD}|in\({_WORD}(, ?{_WORD})*\))$"
_TIME = r"^([0-9]+|[0-9]+:[0-5][0-9]:[0-5][0-9]|[0-9]+-[0-9]{1,2}(:[0-5][0-9]){0,2})$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
_SLURM_MEMORY = r"^[0-9]+[KMGT]?$"
_NAME = r"^[^\s]+$"
_LINE = r"^[^\r\n\x00]*[^\s\x00][^\r\n\x00]*$"
_OPTION = r"^--[a-zA-Z][^\r\n\x00]*$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_TEXT = r"^[^\x00]*$"

FORMS = {
    _GPU: "a GPU's UUID (GPU-...)",
    _ADDRESS: '"auto", "HOST:PORT" or "ray://HOST:PORT"',
    _LABEL: "a label's key (NAME or PREFIX/NAME)",
    _SELECTOR: 'a label\'s "VALUE", "!VALUE", "in(A, B)" or "!in(A, B)"',
    _TIME: 'minutes ("90"), "HH:MM:SS" or "DAYS-HH[:MM[:SS]]"',
    _QUANTITY: 'a quantity of Kubernetes ("500m", "16Gi")',
    _SLURM_MEMORY: 'a size of Slurm ("64G")',
    _NAME: "a name without blanks",
    _LINE: "a line of text",
    _OPTION: "an option of sbatch (--NAME or --NAME=VALUE)",
    _VARIABLE: "a variable's name (letters, digits and _)",
    _TEXT: "text",
}
"""What the regular expressions of the schema ask for, in words."""

Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Uuid = Annotated[str, Field(pattern=_GPU)]
Name = Annotated[str, Field(pattern=_NAME)]
Line = Annotated[str, Field(pattern=_LINE)]
Option = Annotated[str, Field(pattern=_OPTION)]
Variable = Annotated[str, Field(pattern=_VARIABLE)]
Text = Annotated[str, Field(pattern=_TEXT)]
Label = Annotated[str, Field(pattern=_LABEL)]
Quantity = Annotated[str, Field(pattern=_QUANTITY)]


def _key(description: str, **limits: Any) -> Any:
    return Field(default=None, description=description, **limits)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Cluster(_Section):
    name: Line = _key("What messages and reports call the cluster.")
    gpus: Count = _key("Workers, one for each GPU, or CPU workers; --gpus goes before it.")
    device: Literal["auto", "cuda", "cpu"] = _key("What workers run on; auto takes GPUs if any.")
    env: dict[Variable, Text] = _key("Variables for the workers. Numbers have to be quoted.")
    max_restarts: Annotated[int, Field(ge=0)] = _key(
        "How often a failed job goes on from its last checkpoint."
    )
    min_gpus: Count = _key("With how many workers a restarted job may go on, at least.")
    price_per_gpu_hour: Amount = _key("What a GPU costs in an hour, in any currency.")


class Local(_Cluster):
    """Workers on this machine."""

    kind: Literal["local"] = Field(description="local: workers on this machine.")
    devices: list[Annotated[int, Field(ge=0)] | Uuid] = _key(
        "The GPUs to use, by index or UUID, as nvidia-smi -L lists them.",
        min_length=1,
        json_schema_extra={"uniqueItems": True},
    )


class Pod(_Section):
    """What a pod gets."""

    cpu: Amount | Quantity = _key('Processors: a number, or a quantity such as "500m".')
    memory: Quantity = _key('Memory, such as "16Gi".')


class Toleration(_Section):
    """A taint of nodes that the workers' pods put up with."""

    key: Name = _key("The taint's key; without it, every key.")
    operator: Literal["Equal", "Exists"] = _key("Whether the value counts.")
    value: Text = _key("The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = _key("The taint's effect.")


class WorkerPod(Pod):
    """What a pod with a worker gets, and on which nodes it may run."""

    gpu_resource: Name = _key("The resource that counts GPUs, such as nvidia.com/gpu.")
    node_selector: dict[Label, Text] = _key("Labels that the nodes must have.")
    tolerations: list[Toleration] = _key("Taints of nodes that the pods put up with.")


class KubeRay(_Section):
    """For `manifest kuberay`: the cluster that KubeRay makes for the job."""

    image: Name = _key("The image of all pods; it has Ray and the frameworks.")
    namespace: Name = _key("The namespace that the job is created in.")
    service_account: Name = _key("The service account that the pods run as.")
    queue: Name = _key("The queue of Kueue that the job waits in.")
    head: Pod = _key("What the head's pod gets.")
    worker: WorkerPod = _key("What a worker's pod gets, and on which nodes.")
    ttl_seconds: Annotated[int, Field(ge=0)] = _key("How long the cluster is kept after the job.")


class Slurm(_Section):
    """For `manifest slurm`: what the job asks Slurm for."""

    partition: Name = _key("The partition to run in.")
    account: Name = _key("The account to charge.")
    qos: Name = _key("The quality of service.")
    time: Annotated[str, Field(pattern=_TIME)] = _key(
        'The limit of time: minutes, "HH:MM:SS" or "DAYS-HH[:MM[:SS]]".'
    )
    constraint: Line = _key("Features that the nodes must have.")
    cpus_per_node: Count = _key("Processors of every node.")
    memory: Annotated[str, Field(pattern=_SLURM_MEMORY)] = _key(
        'Memory of every node, such as "64G"; "0" for all.'
    )
    setup: list[Line] = _key("Lines of shell that every node runs first, such as module load.")
    options: list[Option] = _key("More options of sbatch, such as --exclusive.")
    ray_port: Annotated[int, Field(ge=1, le=65535)] = _key("The port of the head's Ray.")


class Ray(_Cluster):
    """Workers on a Ray cluster."""

    kind: Literal["ray"] = Field(description="ray: workers on a Ray cluster.")
    address: Annotated[str, Field(pattern=_ADDRESS)] = _key(
        "The cluster's address; without it, a Ray of the job's own on this machine."
    )
    placement: Literal["pack", "spread", "strict-pack", "strict-spread"] = _key(
        "How workers share nodes: on few, on many, all on one, each on its own."
    )
    gpus_per_node: Count = _key("Workers of every node that is used.")
    cpus_per_worker: Amount = _key("Processors that a worker takes of Ray's count.")
    resources_per_worker: dict[Name, Amount] = _key("Custom resources that a worker takes.")
    labels: dict[Label, Annotated[str, Field(pattern=_SELECTOR)]] = _key(
        'Labels that the nodes must have: "VALUE", "!VALUE", "in(A, B)" or "!in(A, B)".'
    )
    wait: Literal[True] | Seconds = _key(
        "Seconds to wait until the cluster has room; true waits for as long as it takes."
    )
    exclude: list[Line] = _key("Glob patterns of what is not shipped with the code.")
    kuberay: KubeRay = _key("For `manifest kuberay`.")
    slurm: Slurm = _key("For `manifest slurm`.")


KINDS: dict[str, type[_Cluster]] = {"local": Local, "ray": Ray}


class _Generator(GenerateJsonSchema):
    def default_schema(self, schema: Any) -> JsonSchemaValue:
        """Without a default: None only marks what is absent."""
        return self.generate_inner(schema["schema"])

    def dict_schema(self, schema: Any) -> JsonSchemaValue:
        """Keys of another form than the pattern's are refused, as pydantic refuses them."""
        json = super().dict_schema(schema)
        return {**json, "additionalProperties": False} if "patternProperties" in json else json

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema() -> dict[str, Any]:
    """The JSON schema of a cluster file, for editors."""
    cluster: TypeAdapter[Local | Ray] = TypeAdapter(
        Annotated[Local | Ray, Field(discriminator="kind")]
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A cluster: where workers run",
        **cluster.json_schema(schema_generator=_Generator),
    }
