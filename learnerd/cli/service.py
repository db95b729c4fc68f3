"""``learnerd service``: the files with which systemd runs the daemon."""

import os
from pathlib import Path
from typing import Annotated

import typer

from learnerd import service

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Run the daemon by systemd.")

UserOption = Annotated[bool, typer.Option("--user", help="For your own service manager: no root needed.")]
GpuOption = Annotated[bool, typer.Option("--gpu", help="With access to an NVIDIA GPU.")]

HttpOption = Annotated[bool, typer.Option("--http", help="With a network, for telemetry.http.")]

SYSTEM_NEXT = """
next, for a policy that you name, here mybot:
  {sudo}systemd-sysusers learnerd.conf
  {sudo}{learnerd} setup /var/lib/learnerd/mybot
  {sudo}systemd-tmpfiles --create learnerd.conf
  {sudo}systemctl daemon-reload
  {sudo}systemctl enable --now learnerd@mybot
then, and after an upgrade of learnerd:
  systemctl status learnerd@mybot
  {sudo}systemctl restart 'learnerd@*'"""

USER_NEXT = """
next, for a policy that you name, here mybot:
  {learnerd} setup ~/.local/share/learnerd/mybot
  systemctl --user daemon-reload
  systemctl --user enable --now learnerd@mybot
  loginctl enable-linger      # to run while you are not logged in"""


@app.command("print")
def print_(*, user: UserOption = False, gpu: GpuOption = False, http: HttpOption = False) -> None:
    """Print the unit, with the paths of this installation."""
    typer.echo(service.unit(service.Installation.found(), user=user, gpu=gpu, http=http), nl=False)


@app.command()
def install(
    *,
    user: UserOption = False,
    gpu: GpuOption = False,
    http: HttpOption = False,
    root: Annotated[
        Path, typer.Option(metavar="DIR", help="Write below DIR, for a package or an image.")
    ] = Path("/"),
    force: Annotated[bool, typer.Option("--force", help="Replace files that somebody has changed.")] = False,
) -> None:
    """Write the unit, the daemon's user and its folders' rights, and say what is next. Starts nothing."""
    found = service.Installation.found()
    texts = service.files(found, user=user, gpu=gpu, http=http, env=os.environ)
    written = service.install(texts, root=root, force=force)
    for path in texts:
        place = root / path.relative_to("/")
        typer.echo(f"{'wrote' if place in written else 'is as it should be:'} {place}")
    sudo = "" if os.geteuid() == 0 else "sudo "
    typer.echo((USER_NEXT if user else SYSTEM_NEXT).format(sudo=sudo, learnerd=" ".join(found.command)))
