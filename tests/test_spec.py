"""Cluster files: what is read from them, and what is told of mistakes in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusters.spec import FileSpec, SpecError, examples, locate, read_spec

WHOLE = """\
kind: ray
name: lab
gpus: 8
env:
  OMP_NUM_THREADS: "4"
labels: {ray.io/accelerator-type: H100, zone: "!in(a, b)"}
wait: true
kuberay:
  head:
    cpu: 1.5
  worker:
    tolerations:
      - key: gpu
        operator: Exists
"""
REFUSED = [
    ("gpuss: 4", "gpuss: there is no such key; allowed in kind ray: name, gpus, ", "mean gpus?"),
    ("max-restarts: 1", "max-restarts: there is no such key", "did you mean max_restarts?"),
    ("devices: [0]", "devices: is for kind local; this cluster is of kind ray"),
    ("kuberay: {head: {mem: 1Gi}}", "kuberay.head.mem: ", "allowed: cpu, memory; ", "mean memory?"),
    ("gpus: four", 'gpus: must be a whole number, 1 or more, not "four"'),
    ("gpus: 0", "gpus: must be a whole number, 1 or more, not 0"),
    ("gpus: true", "gpus: must be a whole number, 1 or more, not true"),
    ("gpus: [2]", "gpus: must be a whole number, 1 or more, not a list"),
    ("gpus: {}", "gpus: must be a whole number, 1 or more, not an empty section"),
    ("gpus:", "gpus: has no value; give a whole number, 1 or more, or leave the key out"),
    ("max_restarts: -1", "max_restarts: must be a whole number, 0 or more, not -1"),
    ("price_per_gpu_hour: 0", "price_per_gpu_hour: must be a number above 0, not 0"),
    ("device: gpu", 'device: must be one of auto, cuda, cpu, not "gpu"'),
    ("placement: Strict_Pack", "one of pack, spread, strict-pack, strict-spread, ", "strict-pack?"),
    ("env: {RATE: 1.10}", 'env.RATE: must be text, not 1.1; quote it: "1.10"'),
    ("env: {FLAG: true}", 'env.FLAG: must be text, not true; quote it: "true"'),
    ("env: {A-B: x}", "env.A-B: the key must be a variable's name (letters, digits and _)"),
    ('env: {A: "\\0"}', "env.A: must be text"),
    ('env: {"[key]": x}', "env.[key]: the key must be a variable's name"),
    ("env: x", 'env: must be a section of KEY: VALUE lines, not "x"'),
    ("wait: -1", "wait: must be true or a number, 0 or more, not -1"),
    ("wait: false", "wait: must be true or a number, 0 or more, not false"),
    ("address: head", 'address: must be "auto", "HOST:PORT" or "ray://HOST:PORT", not "head"'),
    ("address: head:65536", "address: must be"),
    ("address: http://head:8265", "address: must be"),
    ("labels: {a: }", "labels.a: has no value"),
    ("labels: {a: '!!b'}", 'labels.a: must be a label\'s "VALUE", "!VALUE", "in(A, B)" or "!in('),
    ("labels: {a: 'in()'}", "labels.a: must be"),
    ("labels: {a/b/c: x}", "labels.a/b/c: the key must be a label's key"),
    ("resources_per_worker: {tpu: 0}", "resources_per_worker.tpu: must be a number above 0"),
    ("exclude: '*.ckpt'", 'exclude: must be a list, each item a line of text, not "*.ckpt"'),
    ("kuberay: {head: {cpu: 2 cores}}", "must be a number above 0 or a quantity of Kubernetes"),
    ("kuberay: {head: {memory: 16GB}}", "kuberay.head.memory: must be a quantity of Kubernetes"),
    ("kuberay: {worker: {tolerations: [a]}}", "tolerations.0: must be a section", "(keys: key, op"),
    ("slurm: {time: 90}", 'slurm.time: must be minutes ("90"), ', 'not 90; quote it: "90"'),
    ("slurm: {time: '1:30'}", 'slurm.time: must be minutes ("90"), "HH:MM:SS" or "DAYS-HH'),
    ("slurm: {options: [exclusive]}", "slurm.options.0: must be an option of sbatch (--NAME"),
    ("slurm: {ray_port: 70000}", "slurm.ray_port: must be a whole number from 1 to 65535"),
    ('slurm: {account: "a\\n#SBATCH"}', "slurm.account: must be a name without blanks"),
]
"""A line after ``kind: ray``, and what is told of it."""
REFUSED_HERE_ONLY = [
    ("<<: {gpus: 1}", "<<: there is no such key"),
    ("gpus: 2.0", "gpus: must be a whole number, 1 or more, not 2.0"),
    ("wait: 1e999", "wait: must be true or a number, 0 or more, not Infinity"),
]
"""JSON schema takes 2.0 for a whole number, and knows nothing of the other two."""
REFUSED_LOCALLY = [
    ("wait: 1", "wait: is for kind ray; this cluster is of kind local"),
    ("devices: []", "devices: must be a list, each item a whole number, 0 or more or a GPU's UUID"),
    (
        "devices: [[0]]",
        "devices.0: must be a whole number, 0 or more or a GPU's UUID",
        "not a list",
    ),
    ("devices: [{constrained-int: 0}]", "devices.0: must be a whole number", "not a section"),
    ("devices: [-1]", "devices.0: must be a whole number, 0 or more or a GPU's UUID"),
    ("devices: [0, 1, 0]", "devices.2: 0 is in the list already (line 2)"),
]
NOT_YAML = [
    ("", "f.yaml: is empty; a cluster begins with a line such as kind: local"),
    ("# nothing\n", "f.yaml: is empty"),
    ("- a\n", "f.yaml:1: a cluster is written in lines of KEY: VALUE, this is a list"),
    ("local\n", "f.yaml:1: a cluster is written in lines of KEY: VALUE, this is a single value"),
    ("kind: local\nname: [a\n", "f.yaml:3:1: while parsing a flow sequence that begins in line 2"),
    ("kind: local\nname: a: b\n", "f.yaml:2:8: mapping values are not allowed here"),
    ("kind: local\n\tgpus: 1\n", "f.yaml:2:1: "),
    ("kind: local\n---\nkind: ray\n", "f.yaml:2:1: expected a single document in the stream"),
    ("kind: local\nname: \x07\n", "f.yaml:2: the character U+0007 cannot be in YAML"),
    ("kind: local\n[a]: b\n", "f.yaml:2:1: a key must be a word"),
    ("kind: local\nname: !!python/name:os.system\n", "f.yaml:2:7: the tag "),
    ("kind: ray\nlabels:\n  a: !spot\n", "f.yaml:3:6: the tag !spot is not read; quote a text"),
    ("a: &a [x]\nb: *a\n", "f.yaml:2:4: aliases are not read; write what *a stands for"),
    ("a: " + "[" * 5000, "f.yaml: is nested too deeply for a cluster"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str) -> FileSpec:
    """The spec of a file f.yaml with ``text``."""
    Path("f.yaml").write_text(text)
    return read_spec(Path("f.yaml"))


def told_of(text: str) -> list[str]:
    """The lines that are told of a file f.yaml with ``text``."""
    with pytest.raises(SpecError) as caught:
        read(text)
    return str(caught.value).splitlines()


def test_a_file_gives_what_it_sets_and_nothing_else() -> None:
    spec = read(WHOLE)
    assert spec.kind == "ray"
    assert spec.values == {
        "kind": "ray",
        "name": "lab",
        "gpus": 8,
        "env": {"OMP_NUM_THREADS": "4"},
        "labels": {"ray.io/accelerator-type": "H100", "zone": "!in(a, b)"},
        "wait": True,
        "kuberay": {
            "head": {"cpu": 1.5},
            "worker": {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
        },
    }


def test_every_value_has_its_line_for_an_origin() -> None:
    spec = read(WHOLE)
    assert spec.origin("gpus") == "f.yaml:3"
    assert spec.origin("env.OMP_NUM_THREADS") == "f.yaml:5"
    assert spec.origin("labels.ray.io/accelerator-type") == "f.yaml:6"
    assert spec.origin("kuberay.worker.tolerations.0.operator") == "f.yaml:14"
    assert spec.path == Path("f.yaml")


@pytest.mark.parametrize("text", ["on", "yes", "12:30:00", "2024-01-01", "2024-99-99", "0x1F"])
def test_what_is_text_for_editors_is_text_here(text: str) -> None:
    assert read(f"kind: local\nname: {text}\n").values["name"] == text


@pytest.mark.parametrize(
    "line",
    [
        *("address: auto", "address: 10.0.0.1:6379", "address: ray://head.lab:10001"),
        *("address: '[::1]:6379'", "wait: 0", "wait: 2.5e1", "exclude: []"),
        *("labels: {a: in(b)}", "labels: {a: 'in(b, c)'}", "labels: {a: '!in(b,c)'}"),
        *('slurm: {time: "90"}', "slurm: {time: 12:00:00}", "slurm: {time: 1-12}"),
        *("slurm: {time: 1-12:30}", "slurm: {time: 1-12:30:00}", 'slurm: {memory: "0"}'),
        *("kuberay: {head: {cpu: 500m}}", "env: {A: ''}", "resources_per_worker: {tpu: 0.5}"),
    ],
)
def test_every_form_of_a_value_is_taken(line: str) -> None:
    assert len(read(f"kind: ray\n{line}\n").values) == 2


def test_gpus_are_chosen_by_index_and_by_uuid() -> None:
    uuid = "GPU-8f2c1d3e-0000-1111-2222-333344445555"
    spec = read(f"kind: local\ndevices:\n- 3\n- {uuid}\n")
    assert spec.values["devices"] == [3, uuid]
    assert spec.origin("devices.1") == "f.yaml:4"


@pytest.mark.parametrize(
    ("kind", "line", "said"),
    [("ray", line, said) for line, *said in REFUSED + REFUSED_HERE_ONLY]
    + [("local", line, said) for line, *said in REFUSED_LOCALLY],
)
def test_a_mistake_is_told_with_line_key_and_what_is_allowed(
    kind: str, line: str, said: list[str]
) -> None:
    (told,) = told_of(f"kind: {kind}\n{line}\n")
    assert told.startswith("f.yaml:2: ")
    for part in said:
        assert part in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpus: 1\n", "f.yaml:1: kind: is missing; a cluster has a line kind: local or kind: ray"),
        ("gpus: 1\nkind: rai\n", 'f.yaml:2: kind: must be local or ray, not "rai"; did you mean'),
        ("kind: [ray]\n", "f.yaml:1: kind: must be local or ray, not a list"),
    ],
)
def test_a_kind_that_is_missing_or_unknown_is_told(text: str, said: str) -> None:
    (told,) = told_of(text)
    assert told.startswith(said)


def test_all_problems_are_told_at_once_in_the_order_of_lines() -> None:
    told = told_of("gpus: x\nkind: ray\nwait: x\nslurm:\n  tme: 1\ndevices: [0]\ngpus: 2\n")
    assert [line.split(": ")[:2] for line in told] == [
        ["f.yaml:1", "gpus"],
        ["f.yaml:3", "wait"],
        ["f.yaml:5", "slurm.tme"],
        ["f.yaml:6", "devices"],
        ["f.yaml:7", "gpus"],
    ]


def test_a_wrong_kind_hides_no_mistake_that_is_one_in_every_kind() -> None:
    told = told_of("kind: rai\ngpus: x\ndevices: [0]\nwait: 1\ngpuss: 1\n")
    assert [line.split(": ")[:2] for line in told] == [
        ["f.yaml:1", "kind"],
        ["f.yaml:2", "gpus"],
        ["f.yaml:5", "gpuss"],
    ]


def test_a_repeated_key_is_told_with_both_lines() -> None:
    told = told_of("kind: ray\nslurm:\n  qos: a\n  time: '1'\n  qos: b\n")
    assert told == ["f.yaml:5: slurm.qos: is given twice, here and in line 3; keep one"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "kind: ray\ngpus: 4\nmin_gpus: 8\n",
            "f.yaml:3: min_gpus: 8 is more than gpus 4 (line 2)",
        ),
        (
            "kind: ray\ngpus_per_node: 8\ngpus: 4\n",
            "f.yaml:2: gpus_per_node: 8 is more than gpus 4 (line 3)",
        ),
        (
            "kind: local\ndevices: [0, 2]\ngpus: 3\n",
            "f.yaml:3: gpus: 3 is more than the 2 GPUs of devices (line 2)",
        ),
        (
            "kind: local\ndevices: [0, 2]\nmin_gpus: 3\n",
            "f.yaml:3: min_gpus: 3 is more than the 2 GPUs of devices (line 2)",
        ),
        (
            "kind: local\ndevice: cpu\ndevices: [0]\n",
            "f.yaml:2: device: cpu does not go with GPUs in devices; leave one out (line 3)",
        ),
        (
            "kind: ray\nresources_per_worker: {CPU: 2}\n",
            "f.yaml:2: resources_per_worker.CPU: is no custom resource; give cpus_per_worker",
        ),
    ],
)
def test_values_that_contradict_each_other_are_told_with_both_lines(text: str, said: str) -> None:
    assert told_of(text) == [said]


def test_as_many_workers_as_there_are_devices_is_no_contradiction() -> None:
    text = "kind: local\ngpus: 2\nmin_gpus: 2\ndevices: [0, 2]\ndevice: cuda\n"
    assert read(text).values["gpus"] == 2


@pytest.mark.parametrize(("text", "said"), NOT_YAML)
def test_what_is_no_plain_yaml_is_told_in_one_sentence(text: str, said: str) -> None:
    (told,) = told_of(text)
    assert told.startswith(said)


def test_a_missing_file_a_folder_and_a_file_that_is_not_utf8_are_told(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"^none.yaml: no such file or directory; a cluster file"):
        read_spec(Path("none.yaml"))
    with pytest.raises(SpecError, match="is a directory; a cluster file in YAML is expected"):
        read_spec(folder)
    Path("f.yaml").write_bytes("kind: local\nname: ü\n".encode("latin-1"))
    with pytest.raises(SpecError, match=r"^f.yaml:2: is not UTF-8 text"):
        read_spec(Path("f.yaml"))


def test_a_file_goes_before_an_example_of_its_name() -> None:
    assert locate("slurm") == locate("slurm.yaml") == examples()["slurm"]
    Path("slurm").mkdir()
    assert locate("slurm") == examples()["slurm"]
    Path("slurm.yaml").touch()
    assert locate("slurm.yaml") == Path("slurm.yaml")


def test_an_unknown_name_is_told_with_the_examples_and_the_nearest() -> None:
    with pytest.raises(SpecError) as caught:
        locate("kubray")
    told = str(caught.value)
    assert told.startswith("kubray: there is no such file, and no such example; there are chosen-")
    assert told.endswith("; did you mean kuberay?")
