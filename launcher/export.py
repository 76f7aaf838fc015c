"""``export``: a checkpoint as a file in another format, verified before it gets its name."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import strategies
from clusters import load_cluster
from clusters.base import ClusterSpec, Slot, WorkerPlan
from launcher import signals
from launcher.errors import UserError
from launcher.output import Output
from launcher.results import WorkerResult, describe_end, log_tail, traceback_of
from launcher.supervise import Outcome, supervise
from strategies.mnist.export import TARGETS
from strategies.mnist.export.base import Order, Verified

_LOG_LINES = 10
_ENVIRON = {
    "CUDA_VISIBLE_DEVICES": "",  # a GPU would only add its rounding to the comparison
    "KERAS_BACKEND": "tensorflow",
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime would send what it runs, and write to ~/.cache
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint to export: its file, the model in it, its run's folder."""

    path: Path
    model: str
    step: int
    run: Path


def export(run: Path, to: str, out: Path | None, output: Output) -> int:
    """Exports the newest checkpoint of ``run`` and returns the exit code.

    ``run`` is a run's folder, its checkpoints' folder or one file; ``to`` one of TARGETS; ``out``
    the new file, by default ``export/MODEL.SUFFIX`` in the run's folder. Raises UserError.
    """
    _require(to)
    source = _find(run)
    path = _target(source, to, out)
    if not output.quiet:
        output.say(f"{to}: {source.model} at step {source.step:,}, from {source.path}")
    with signals.noted() as interrupts, _working_folder(path) as folder:
        order = Order(target=to, checkpoint=str(source.path), folder=str(folder), path=str(path))
        cluster = load_cluster(ClusterSpec())
        outcome = supervise(cluster, [_plan(order)], interrupts=interrupts, watch=lambda: None)
        if outcome.exit_code:
            output.say(_failure(outcome, to))
            return outcome.exit_code
        verified = Verified.from_json(order.result.read_text())
        if verified.same:
            _keep(order.file, path)
    _tell(verified, path, to, output)
    return 0 if verified.same else 1


def _require(to: str) -> None:
    if to not in TARGETS:
        raise UserError(f"--to {to}: not known; there are {', '.join(TARGETS)}")
    target = TARGETS[to]
    missing = [name for name in target.requires if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--to {to} needs {', '.join(missing)}, not installed in {sys.prefix}: "
            f"pip install 'troika-launcher[{target.install}]'"
        )


def _find(run: Path) -> Source:
    import numpy as np

    from strategies.mnist.checkpoint import CheckpointError, latest, load

    try:
        path = latest(run).absolute()
        checkpoint = load(path)
    except CheckpointError as error:
        raise UserError(f"RUN {run}: {error}") from None
    tensors = [*checkpoint.weights.values(), *checkpoint.momentum.values()]
    if not all(np.isfinite(tensor).all() for tensor in tensors):
        raise UserError(
            f"RUN {run}: {path} has weights that are not finite, its training has diverged; "
            "name an earlier checkpoint's file"
        )
    folder = path.parent
    return Source(
        path=path,
        model=checkpoint.header.model,
        step=checkpoint.header.step,
        run=folder.parent if folder.name == "checkpoints" else folder,
    )


def _target(source: Source, to: str, out: Path | None) -> Path:
    """The file to write. Raises UserError for one that is there, or cannot be."""
    suffix = TARGETS[to].suffix
    path = (out or source.run / "export" / f"{source.model}{suffix}").absolute()
    if os.path.lexists(path):
        raise UserError(
            f"--out {out}: exists already; name another file"
            if out
            else f"{path} exists already; remove it, or name another file with --out"
        )
    if TARGETS[to].suffix_matters and path.suffix != suffix:
        raise UserError(f"--out {out}: the name of a {to} file has to end in {suffix}")
    return path


@contextmanager
def _working_folder(path: Path) -> Iterator[Path]:
    """A folder for what is not verified yet, on the file system of ``path``; removed at the end."""
    home = next(place for place in path.parents if place.exists())
    folder = home / f".{path.name}.tmp-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise UserError(f"{path}: cannot be written to: {error.strerror}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _plan(order: Order) -> WorkerPlan:
    folder = Path(order.folder)
    root = str(Path(strategies.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    python_path = f"{root}:{inherited}" if inherited else root
    return WorkerPlan(
        rank=0,
        slot=Slot(host=socket.gethostname(), host_index=0, local_rank=0),
        argv=(sys.executable, "-m", "strategies.mnist.export", order.to_json()),
        env={**_ENVIRON, "PYTHONPATH": python_path, "TMPDIR": str(folder)},
        log_path=folder / "log",
        events_path=folder / "events",
        result_path=order.result,
    )


def _keep(file: Path, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written to: {error.strerror}") from None


def _failure(outcome: Outcome, to: str) -> str:
    if outcome.signal:
        return f"stopped by {signals.name(outcome.signal)}; nothing was written"
    if outcome.failure is None:
        return f"the export to {to} was killed, but has not ended"
    return "\n".join([f"the export to {to} failed, nothing was written", *_cause(outcome.failure)])


def _cause(failure: WorkerResult) -> Iterator[str]:
    """How the process ended, and its traceback or else the last lines of its log, which goes."""
    yield describe_end(failure.ended)
    if failure.ended.evidence:
        yield failure.ended.evidence
    log = log_tail(failure.plan.log_path)
    yield traceback_of(log) or "\n".join(log.splitlines()[-_LOG_LINES:])


def _tell(verified: Verified, path: Path, to: str, output: Output) -> None:
    images = f"{verified.images:,} test images of {verified.data or 'MNIST'}"
    if not verified.same:
        output.say(
            f"the {to} file does not compute what the checkpoint does: on the {images} logits "
            f"differ by up to {verified.difference:.1e}, rounding explains {verified.tolerance:.1e}"
            "; nothing was written"
        )
        return
    size = path.stat().st_size
    if not output.quiet:
        ties = f" but {verified.reclassified} ties" if verified.reclassified else ""
        output.say(
            f"{path}: {size:,} bytes, accuracy {verified.accuracy:.2%} on the {images}; the "
            f"checkpoint's class for all{ties}, logits differ by {verified.difference:.1e} at most"
        )
        output.say("\nto use it, with pixels float32 [n, 28, 28] of 0 to 255:")
        output.say(verified.usage)
    if output.as_json:
        told = {"to": to, "path": str(path), "bytes": size, **asdict(verified)}
        print(json.dumps(told, indent=2))
