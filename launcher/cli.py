"""The command line: text to values, and back. Decisions are made elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from launcher import __version__
from launcher.errors import NotSetUp, UserError
from launcher.job import Given
from launcher.output import Output
from launcher.run import run
from launcher.words import flags_of, with_values
from strategies import STRATEGIES
from strategies.mnist.models import MODELS

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
COMMANDS = ("cluster", "compare", "export", "logs", "manifest", "setup", "status", "stop", "submit")
"""Those of ``commands.py``; a script of such a name is started as ./compare."""
_NOT_SETTINGS = {"out", "json", "dry_run", "quiet", "version", "strategies"}


class Device(str, Enum):
    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


class Precision(str, Enum):
    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"troika-launcher {__version__}")
        raise typer.Exit


def _setting(name: str, text: str, *names: str) -> Any:
    """An option that an environment variable can set too, named in help and errors."""
    variable = f"TROIKA_{name.upper().replace('-', '_')}"
    return typer.Option(*(names or (f"--{name}",)), envvar=variable, help=text)


@app.command(context_settings={"allow_interspersed_args": False})
def train(
    context: typer.Context,
    script: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SCRIPT [ARGS]...]",
            help="Your own script and its arguments, started on every worker with torchrun's "
            "environment. Without it, the built-in MNIST training runs.",
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        _setting("gpus", "Workers: one for each GPU, or CPU workers.", "--gpus", "-n"),
    ] = None,
    strategy: Annotated[
        str | None, _setting("strategy", f"One of {', '.join(STRATEGIES)}.")
    ] = None,
    model: Annotated[str | None, _setting("model", f"One of {', '.join(MODELS)}.")] = None,
    recipe: Annotated[
        str | None, _setting("recipe", "The model's settings: article (default) or tuned.")
    ] = None,
    epochs: Annotated[int | None, _setting("epochs", "Epochs to train in all.")] = None,
    steps: Annotated[int | None, _setting("steps", "Optimizer steps to train at most.")] = None,
    batch_size: Annotated[int | None, _setting("batch-size", "The global batch.")] = None,
    batch_size_per_gpu: Annotated[
        int | None,
        _setting("batch-size-per-gpu", "The batch of one worker (of one part of --accumulate)."),
    ] = None,
    accumulate: Annotated[
        int | None,
        _setting(
            "accumulate",
            "Compute the batch in so many parts, and exchange their summed gradients once.",
            *("--accumulate", "--gradient-accumulation-steps"),
        ),
    ] = None,
    lr: Annotated[float | None, _setting("lr", "Learning rate.")] = None,
    scale_lr: Annotated[
        bool | None,
        _setting(
            "scale-lr",
            "Scale the learning rate with the global batch over the recipe's, and warm it up "
            "(Goyal et al. 2017).",
            "--scale-lr/--no-scale-lr",
        ),
    ] = None,
    warmup_epochs: Annotated[
        float | None,
        _setting(
            "warmup-epochs",
            "Raise the learning rate linearly for so long: from the unscaled one with --scale-lr "
            "(by default for 5 epochs, or a fifth of all), from 0 without.",
        ),
    ] = None,
    momentum: Annotated[float | None, _setting("momentum", "Momentum of SGD.")] = None,
    seed: Annotated[
        int | None, _setting("seed", "Initial weights and sample order follow from it.")
    ] = None,
    device: Annotated[
        Device | None, _setting("device", "auto takes GPUs if the machine has one.")
    ] = None,
    precision: Annotated[Precision | None, _setting("precision", "Of the computation.")] = None,
    exchange: Annotated[
        str | None,
        _setting(
            "exchange",
            "What carries the gradients: auto (default), or ddp: gloo; mirrored: nccl, "
            "hierarchical, one-device; on several hosts nccl, ring.",
        ),
    ] = None,
    cuda_graphs: Annotated[
        bool | None,
        _setting("cuda-graphs", "A step as one launch, on GPUs.", "--cuda-graphs/--no-cuda-graphs"),
    ] = None,
    baseline: Annotated[
        bool | None,
        _setting("baseline", "Measure the scaling after the training.", "--baseline/--no-baseline"),
    ] = None,
    cluster: Annotated[
        str | None,
        _setting(
            "cluster",
            "Where the workers run: local, ray, a YAML file or a shipped example's name "
            "(see `launcher cluster`).",
        ),
    ] = None,
    address: Annotated[
        str | None,
        _setting(
            "address", "A Ray cluster's address: auto, host:port or ray://host:port (RAY_ADDRESS)."
        ),
    ] = None,
    wait: Annotated[
        float | None,
        _setting("wait", "Seconds to wait for room on the cluster; without a number, for ever."),
    ] = None,
    max_restarts: Annotated[
        int | None,
        _setting("max-restarts", "Go on so often after a failure, from the last checkpoint."),
    ] = None,
    min_gpus: Annotated[
        int | None,
        _setting("min-gpus", "Go on with as few workers as these, where not all are left."),
    ] = None,
    tensorboard: Annotated[
        bool | None,
        _setting(
            "tensorboard",
            "Write event files into the run's folder.",
            "--tensorboard/--no-tensorboard",
        ),
    ] = None,
    data_dir: Annotated[
        str | None, _setting("data-dir", "A folder with MNIST's four IDX files, gzipped or raw.")
    ] = None,
    resume: Annotated[
        str | None, _setting("resume", "A run's folder, or a checkpoint, to go on from.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder, new or empty. Default: runs/TIME-NAME.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON; text goes to stderr.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be started, with origins, and stop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Trains on many devices at once, and says how well it scaled and what the rest was lost to.

    Every option can be set by an environment variable: --batch-size by TROIKA_BATCH_SIZE.

    Other commands, each with a --help of its own: compare (the same training under several
    strategies), cluster (what a cluster has, and cluster files), submit, status, logs and stop
    (trainings through a Ray cluster's job server), manifest (for KubeRay and Slurm), export (a
    trained model in a framework's own format), setup (builds Horovod).
    """
    output = make_output(json, quiet)
    with mistakes_told():
        given = given_by(context)
        code = setup_offered(lambda: run(given, out, output, dry_run=dry_run), output)
    raise typer.Exit(code)


def setup_offered(action: Callable[[], int], output: Output) -> int:
    """Does ``action``; on a terminal, offers to set up what it misses, and does it then."""
    try:
        return action()
    except NotSetUp as missing:
        if not (sys.stdin.isatty() and output.people.is_terminal):
            raise
        output.say(str(missing))
        if not typer.confirm(f"Set up {missing.what} now?", err=True):
            return 2
        from launcher.setup import setup_horovod

        return setup_horovod(output) or action()


def make_output(as_json: bool, quiet: bool) -> Output:
    return Output(people=Console(stderr=as_json), as_json=as_json, quiet=quiet)


@contextmanager
def mistakes_told() -> Iterator[None]:
    """A user's mistake becomes a sentence and exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:  # while nothing runs yet
        print("stopped by SIGINT", file=sys.stderr)
        raise typer.Exit(130) from None


def given_by(context: typer.Context) -> dict[str, Given]:
    """The settings that came from the command line or the environment, with their origins."""
    given: dict[str, Given] = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if name in _NOT_SETTINGS or value in (None, [], ()) or source is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if source.name == "ENVIRONMENT":
            given[name] = Given(_plain(value), f"TROIKA_{name.upper()}")
        elif source.name == "COMMANDLINE":
            given[name] = Given(_plain(value), flag)
    return given


def training() -> Any:
    """The training as a click command."""
    return typer.main.get_command(app)


def parsed(words: Sequence[str], name: str | None) -> dict[str, Given]:
    """The settings that a training's own words and the environment give."""
    command = training()
    context = command.make_context(name, with_values(words, flags_of(command)))
    return given_by(context)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def main() -> None:
    """A command's name comes first, else it is a training: ``launcher export ...``."""
    name = "launcher" if sys.argv[0].endswith("__main__.py") else None
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        from launcher.commands import commands  # a training need not wait for their imports

        commands(prog_name=name)
    command = training()
    command(with_values(sys.argv[1:], flags_of(command)), prog_name=name)
