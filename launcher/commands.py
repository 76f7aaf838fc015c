"""The commands beside the training. Text to values, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher import cli, cluster_commands, remote_commands
from launcher.compare import compare as compare_strategies
from launcher.errors import UserError
from launcher.export import export as export_model
from launcher.manifest import manifest as make_manifest
from launcher.setup import setup_horovod
from strategies import STRATEGIES

commands = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
commands.add_typer(cluster_commands.cluster, name="cluster")
remote_commands.register(commands)
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@commands.command("compare", context_settings=_PASSED_ON)
def compare(
    context: typer.Context,
    strategies: Annotated[
        str, typer.Option(help="Strategies to run, one after the other, with commas between.")
    ] = ",".join(STRATEGIES),
    out: Annotated[
        Path | None, typer.Option(help="A new or empty folder. Default: runs/TIME-compare-MODEL.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the comparison as JSON; text goes to stderr.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be started, and stop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.")] = False,
) -> None:
    """Runs the same training under several strategies and prints one table.

    All options of a training may be given too (--gpus, --model, --batch-size, ...): see
    ``launcher --help``.
    """
    with cli.mistakes_told():
        given = cli.parsed(context.args, context.info_name)
        names = [name.strip() for name in strategies.split(",") if name.strip()]
        output = cli.make_output(json, quiet)
        code = cli.setup_offered(
            lambda: compare_strategies(names, given, out, output, dry_run=dry_run), output
        )
    raise typer.Exit(code)


@commands.command("export")
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a checkpoint.")],
    to: Annotated[str, typer.Option(help="torch, keras, onnx, torchscript or tflite.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: RUN/export/MODEL.SUFFIX.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.")] = False,
) -> None:
    """Writes a trained model in a framework's own format, and checks the file on the test set."""
    with cli.mistakes_told():
        code = export_model(run, to, out, cli.make_output(as_json=False, quiet=quiet))
    raise typer.Exit(code)


@commands.command("setup")
def setup(
    what: Annotated[str, typer.Argument(help="horovod")],
    force: Annotated[bool, typer.Option("--force", help="Build it again.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.")] = False,
) -> None:
    """Builds and installs Horovod for the PyTorch that is installed, and tries it."""
    with cli.mistakes_told():
        if what != "horovod":
            raise UserError(f"setup {what}: not known; there is horovod")
        code = setup_horovod(cli.make_output(as_json=False, quiet=quiet), force=force)
    raise typer.Exit(code)


@commands.command("manifest", context_settings=_PASSED_ON)
def manifest(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="kuberay or slurm")],
    cluster: Annotated[
        str | None, typer.Option(help="A cluster file, or the name of an example.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The job's name.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new file. Default: print it.")] = None,
) -> None:
    """Prints KubeRay's manifest, or Slurm's script, of a training on a cluster of its own.

    The training's options come behind --: manifest slurm -- --gpus 16 --model mlp
    """
    with cli.mistakes_told():
        given = cli.parsed(context.args, context.info_name)
        make_manifest(kind, given, context.args, cluster=cluster, name=name, out=out)
