"""The commands ``cluster ...``. Text to values, and back."""

from __future__ import annotations

from typing import Annotated

import typer

from launcher import cli, cluster_file, cluster_show

cluster = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Shows what a cluster has, checks cluster files, and says how to write one.",
)


@cluster.command("show")
def show(
    context: typer.Context,
    file: Annotated[
        str | None, typer.Argument(help="local, ray, a cluster file or an example's name.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster's, as for a training.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Says what a cluster has, and what of it is free."""
    with cli.mistakes_told():
        words = [
            *(["--cluster", file] if file else []),
            *(["--address", address] if address else []),
        ]
        given = cli.parsed(words, context.info_name)
        code = cluster_show.show_cluster(given, cli.make_output(json, quiet=False))
    raise typer.Exit(code)


@cluster.command("validate")
def validate_cluster(
    file: Annotated[str, typer.Argument(help="A cluster file, or the name of an example.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.")] = False,
) -> None:
    """Checks a cluster file, and names all that is wrong with it, by line."""
    with cli.mistakes_told():
        code = cluster_file.validate(file, cli.make_output(as_json=False, quiet=quiet))
    raise typer.Exit(code)


@cluster.command("schema")
def print_cluster_schema() -> None:
    """Prints the JSON schema of cluster files, for editors."""
    cluster_file.print_schema()


@cluster.command("examples")
def list_cluster_examples() -> None:
    """Lists the examples that are shipped; --cluster takes their names."""
    cluster_file.list_examples(cli.make_output(as_json=False, quiet=False))
