"""``learnerd export``: one version as a file for clients of other stacks, or archived episodes."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from learnerd import datasets
from learnerd.cli.export_episodes import export_episodes
from learnerd.cli.options import ConfigOption, JsonOption, check_folder_of, print_json, read_config
from learnerd.cli.versions.options import refuse
from learnerd.exit_codes import ExitCode
from learnerd.export import FORMATS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from learnerd.config import Config
    from learnerd.export.source import Exported, Source

POLICIES = tuple(name for name in FORMATS if name != "onnx_int8")
CHOICES = (*POLICIES, *datasets.FORMATS)


def command(
    ctx: typer.Context,
    version: Annotated[
        int | None, typer.Argument(min=1, metavar="[VERSION]", help="Default: the one that clients act with.")
    ] = None,
    *,
    name: Annotated[
        str,
        typer.Option(
            "--format", help=f"A policy: {', '.join(POLICIES)}; episodes: {', '.join(datasets.FORMATS)}."
        ),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write it (default: policy-<version>.<format>)."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="ONNX with 8-bit weights; needs --lossy.")] = False,
    lossy: Annotated[bool, typer.Option("--lossy", help="Write it although something is lost.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version as ONNX, safetensors or npz, or archived episodes; needs no running daemon.

    Episodes go to --out, a file or the name of a Minari dataset: those that VERSION learned, or all.

    Exit code 1 when it cannot be written, or not exactly and without --lossy; 9 when there is no version, or
    no such episode, yet.
    """
    chosen = _format(name, int8=int8)
    settings = read_config(ctx, config)
    if chosen in datasets.FORMATS:
        if out is None:
            raise typer.BadParameter(f"--format {chosen} without --out: name a file, or a Minari dataset")
        if chosen != "minari":
            check_folder_of(out, "--out")
        archive = settings.paths.spool / "archive"
        export_episodes(archive, chosen, str(out), version=version, lossy=lossy, as_json=as_json)
        return
    source = _read(settings.paths.state, version)
    target = Path(f"policy-{source.version:08d}{_suffix(chosen)}") if out is None else out
    check_folder_of(target, "--out")
    exported, origin = _encode(settings, chosen, source, lossy=lossy)
    from experience.durable import write_atomic  # noqa: PLC0415 - loads NumPy

    write_atomic(target.absolute(), exported.data)
    found = _document(target, chosen, source, exported, origin)
    print_json(found) if as_json else _print(found)


def _format(name: str, *, int8: bool) -> str:
    if name not in CHOICES:
        raise typer.BadParameter(f"--format {name}: accepted: {', '.join(CHOICES)}")
    if int8 and name != "onnx":
        raise typer.BadParameter(f"--int8 with --format {name}: accepted with --format onnx only")
    return "onnx_int8" if int8 else name


def _suffix(chosen: str) -> str:
    return FORMATS[chosen].file.removeprefix("policy")


def _read(state: Path, version: int | None) -> "Source":
    from learnerd.export.source import read_source  # noqa: PLC0415 - loads NumPy
    from policies import errors  # noqa: PLC0415
    from policies.manifest import read_current  # noqa: PLC0415

    wanted = read_current(state) if version is None else version
    if wanted is None:
        typer.echo(f"nothing to export: {state} has no version yet", err=True)
        raise typer.Exit(ExitCode.NOTHING_TO_DO)
    try:
        return read_source(state, wanted)
    except (errors.NotAVersion, errors.VersionPruned, errors.VersionDamaged) as error:
        refuse(str(error), state)
        raise


def _encode(settings: "Config", chosen: str, source: "Source", *, lossy: bool) -> "tuple[Exported, str]":
    """The file, and where the observations came from on which it was measured."""
    from learnerd.export.encoding import encode  # noqa: PLC0415 - loads NumPy
    from learnerd.export.observations import archived  # noqa: PLC0415

    observations: NDArray[Any] | None = None
    if FORMATS[chosen].lossy:
        observations = archived(settings.paths.spool / "archive", source)
    origin = "made up" if observations is None else "archived"
    return encode(chosen, source, observations, lossy=lossy), origin


def _document(
    target: Path, chosen: str, source: "Source", exported: "Exported", origin: str
) -> dict[str, Any]:
    return {
        "schema": 1,
        "file": str(target),
        "format": chosen,
        "version": source.version,
        "bytes": len(exported.data),
        "sha256": hashlib.sha256(exported.data).hexdigest(),
        "measured_on": origin if "difference" in exported.facts else None,
        **exported.told(),
    }


def _print(found: dict[str, Any]) -> None:
    typer.echo(f"wrote {found['file']}: version {found['version']}, {found['bytes']} bytes")
    for name in ("inputs", "outputs"):
        for key, shape in found.get(name, {}).items():
            typer.echo(f"  {name[:-1]} {key}: {shape}")
    if "opset" in found:
        typer.echo(f"  opset {found['opset']}")
    if found["loss"]:
        typer.echo(f"  not exact: {found['loss']} ({found['measured_on']})")
    elif "difference" in found:
        typer.echo(f"  largest difference of an output: {found['difference']['output_max']:.2g}")
