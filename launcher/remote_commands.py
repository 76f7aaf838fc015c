"""The commands for trainings on a Ray cluster. Text to values, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher import cli
from launcher.errors import UserError
from launcher.remote_jobs import connect
from launcher.submit import Submission, list_jobs, show_log, stop_job, submit_job

_PASSED_ON = {"allow_extra_args": True}

Address = Annotated[
    str | None,
    typer.Option(
        help="The cluster's job server, http://HEAD:8265. Default: RAY_ADDRESS, if it is one."
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's name.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print the job's own log and failures only.")
]
Out = Annotated[
    Path | None, typer.Option(help="A new or empty folder for the job's report and checkpoint.")
]


def submit(
    context: typer.Context,
    address: Address = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the job's name and leave it running.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A new or empty folder for report, losses and last checkpoint. Default: "
            "runs/TIME-submit-ID."
        ),
    ] = None,
    job_id: Annotated[
        str | None, typer.Option("--id", help="The job's name. Default: troika-XXXXXXXX.")
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            help="A folder that is sent along, and in which the job starts. Default: this one, "
            "if a script is to run."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="What of it is not sent: a pattern for names or paths. Repeatable."),
    ] = None,
    pip: Annotated[
        bool,
        typer.Option("--pip", help="Have Ray install what the launcher needs, for this job."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Runs a training on a Ray cluster, follows it, and brings its results home.

    The training's options come behind --: submit --address http://head:8265 -- --gpus 4

    Paths in them are the cluster's. Ctrl-C asks whether to stop the job; without a terminal, a
    signal stops it, and the next one leaves it. The exit code is the job's.
    """
    training = typer.main.get_command(cli.app)
    with cli.mistakes_told():
        if context.args[:1] and context.args[0] in cli.COMMANDS:
            raise UserError(
                f"submit -- {context.args[0]}: only a training can be submitted; a script of this "
                f"name is ./{context.args[0]}"
            )
        asked = training.make_context(f"{context.info_name} --", list(context.args))
        submission = Submission(
            arguments=context.args,
            given=cli.given_by(asked),  # type: ignore[arg-type]  # typer's own kind of context
            job_id=job_id,
            out=out,
            working_dir=working_dir,
            excludes=exclude or (),
            pip=pip,
            detach=detach,
        )
        output = cli.make_output(as_json=False, quiet=quiet)
        code = submit_job(connect(address), submission, output)
    raise typer.Exit(code)


def status(
    job_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A job's name. Default: all jobs.")
    ] = None,
    address: Address = None,
) -> None:
    """Says how the jobs on a Ray cluster are."""
    with cli.mistakes_told():
        list_jobs(connect(address), job_id, cli.make_output(as_json=False, quiet=False))


def logs(
    job_id: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on to the job's end.")] = False,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """Prints a job's log; brings its files home into --out, if it is over."""
    with cli.mistakes_told():
        output = cli.make_output(as_json=False, quiet=quiet)
        code = show_log(connect(address), job_id, out, output, follow=follow)
    raise typer.Exit(code)


def stop(job_id: JobId, address: Address = None, quiet: Quiet = False) -> None:
    """Ends a job: its workers get a signal, and three seconds later Ray kills what is left."""
    with cli.mistakes_told():
        stop_job(connect(address), job_id, cli.make_output(as_json=False, quiet=quiet))


def register(commands: typer.Typer) -> None:
    """Adds these commands to the others."""
    commands.command("submit", context_settings=_PASSED_ON)(submit)
    for command in (status, logs, stop):
        commands.command(command.__name__)(command)
