"""``fastgpu artifacts …``: what is kept of jobs, fetching it, keeping more, deleting it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fastgpu import artifact_views
from fastgpu.cli_output import AsJson, print_answer, tell
from fastgpu.client import GPUClient
from fastgpu.errors import InvalidRequest

Id = Annotated[str, typer.Argument(help="Id of the job.")]


class _Artifacts(TyperGroup):
    """``artifacts ID`` is ``artifacts list ID``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def add_to(app: typer.Typer, make_client: Callable[[], GPUClient]) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(cls=_Artifacts, rich_markup_mode=None)
    app.add_typer(group, name="artifacts", help="Files kept of jobs: list (the default), get, keep, rm.")

    @group.command("list")
    def list_(
        job_id: Annotated[str | None, typer.Argument(help="Id of a job; default: all of mine, by job.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """What is kept: of a job, or of all my jobs, the largest first."""
        client = make_client()
        if job_id is None:
            kept = client.kept_files()
            print_answer(kept, as_json, lambda lens: artifact_views.kept_files(kept, lens))
            return
        job, answer = client.get_job_status(job_id), client.artifacts(job_id)
        print_answer(answer, as_json, lambda lens: artifact_views.artifacts(job, answer, lens))

    @group.command()
    def get(
        job_id: Id,
        paths: Annotated[list[str] | None, typer.Argument(help="Kept files; default: all.")] = None,
        to: Annotated[str, typer.Option("--to", help="Folder to save them in.")] = ".",
    ) -> None:
        """Save kept files here."""
        for saved in make_client().job(job_id).download_artifacts(Path(to), paths or None):
            tell(str(saved))

    @group.command()
    def keep(
        job_id: Id,
        outputs: Annotated[list[str] | None, typer.Argument(help="Patterns; default: the job's own outputs.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Keep a job's outputs after its end, or again after room was made."""
        client = make_client()
        job = client.keep_artifacts(job_id, outputs or ())
        print_answer(job, as_json, lambda lens: artifact_views.artifacts(job, client.artifacts(job_id), lens))

    @group.command()
    def rm(
        job_id: Id,
        paths: Annotated[list[str] | None, typer.Argument(help="Kept files to delete.")] = None,
        everything: Annotated[bool, typer.Option("--all", help="Delete all that is kept of the job.")] = False,
    ) -> None:
        """Delete kept files for good."""
        if bool(paths) == everything:
            raise InvalidRequest("Say which files to delete, or --all.")
        client = make_client()
        for path in paths or [None]:  # type: ignore[list-item]
            client.delete_artifacts(job_id, path)
