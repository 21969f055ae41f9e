"""The command line: thin. Commands import what they need, so that `cvkan --help` answers at once."""

from __future__ import annotations

import contextlib
import errno
import math
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvkan import __version__
from cvkan.errors import Problem, UserError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cvkan.orchestrator.plan import Plan
    from cvkan.orchestrator.run import Backend, Result, View
    from cvkan.orchestrator.sweep import SweepSpec
    from cvkan.report.summary import SweepSummary

app = typer.Typer(
    name="cvkan",
    help="Sweeps and benchmarks for complex-valued and phase-based models: from a YAML question to a table with intervals.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
data_app = typer.Typer(help="Prepare and check data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def _home(param: typer.CallbackParam, value: str | Path | None) -> str | Path | None:
    """A place with its leading ~ replaced by the home folder: a shell leaves it as it is in --results=~/r."""
    if value is None or not str(value).startswith("~"):
        return value
    try:
        return type(value)(Path(value).expanduser())
    except RuntimeError:
        raise UserError(Problem(f"{_named(param)} {value}", "", f"there is no home folder {Path(value).parts[0]}")) from None


def _named(param: typer.CallbackParam) -> str:
    """An option's long name, an argument's name in capitals."""
    return max(param.opts, key=len) if param.param_type_name == "option" else str(param.name).upper()


File = Annotated[Path, typer.Argument(metavar="FILE", callback=_home, help="The sweep file, such as sweeps/depth_vs_width.yaml.")]
Profile = Annotated[str | None, typer.Option("--profile", "-p", help="A profile of the sweep file, such as full.")]
Sets = Annotated[list[str] | None, typer.Option("--set", "-s", metavar="PATH=VALUE", help="Change a setting, such as train.epochs=5.")]
Seeds = Annotated[str | None, typer.Option("--seeds", help="Number of seeds (8), or a list of them (3,5,7).")]
Results = Annotated[Path, typer.Option("--results", "-r", callback=_home, help="Folder of all results.")]
DataRoot = Annotated[str | None, typer.Option("--data", callback=_home, help="Folder with data sets; short for --set data.root=DIR.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", callback=_home, help="Folder for decoded data sets; by default the user's cache folder.")
]
Local = Annotated[bool, typer.Option("--local", help="Train in this process, without Ray.")]

EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130

PLACE_ERRORS = frozenset({errno.ENAMETOOLONG, errno.EACCES})
"""What the system answers to names of files and folders that nobody could use, wherever they are looked at first."""


class Format(StrEnum):
    """What `cvkan report` writes."""

    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"
    json = "json"


KINDS = ("sweeps", "domains", "models", "data", "norms", "poolings", "aggregations", "embeddings", "positions", "optimizers", "schedules")


def main() -> None:
    """The `cvkan` command. A user's mistakes are printed without a traceback; exit code 2."""
    try:
        app()
    except UserError as error:
        for line in str(error).splitlines():
            typer.secho(line, err=True, fg=typer.colors.RED)
        sys.exit(EXIT_USER)
    except BrokenPipeError:
        sys.exit(EXIT_FAILED)
    except OSError as error:
        if error.errno in PLACE_ERRORS and error.filename is not None:
            typer.secho(str(Problem(str(error.filename), "", f"cannot be used: {error.strerror}")), err=True, fg=typer.colors.RED)
            sys.exit(EXIT_USER)
        if error.errno != errno.ENOSPC or error.filename is not None:  # not the output: a mistake of ours, to be seen whole
            raise
        with contextlib.suppress(OSError):
            typer.secho(f"the output cannot be written: {error.strerror}", err=True, fg=typer.colors.RED)
        sys.exit(EXIT_FAILED)


def _say(line: str) -> None:
    """Prints what a sweep tells on its way; training does not end because nobody listens."""
    with contextlib.suppress(OSError):
        typer.echo(line)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cvkan {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")] = False,
) -> None:
    pass


def _cache(cache: Path | None) -> Path:
    from platformdirs import user_cache_path

    return (cache or user_cache_path("cvkan")).absolute()


def _planned(spec: SweepSpec, cache: Path) -> Plan:
    from cvkan.orchestrator.plan import make_plan
    from cvkan.orchestrator.run import cached_hash

    return make_plan(spec, cached_hash(cache))


def _command() -> str:
    return shlex.join(["cvkan", *sys.argv[1:]])


@app.command()
def sweep(
    file: File,
    profile: Profile = None,
    sets: Sets = None,
    seeds: Seeds = None,
    results: Results = Path("results"),
    data: DataRoot = None,
    cache: Cache = None,
    local: Local = False,
    address: Annotated[str | None, typer.Option("--address", help="A running Ray cluster: auto or HOST:PORT.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", "-w", min=1, help="Most packs at a time; by default what fits.")] = None,
    dashboard: Annotated[bool, typer.Option(help="Start the Ray dashboard, on this machine only.")] = True,
) -> None:
    """Train what the ledger lacks of a sweep. Run it again to continue, or to add seeds and axis values.

    Exit codes: 0 all trials have a result, 1 some failed, 2 a mistake in the input, 130 interrupted.
    """
    from cvkan.orchestrator.sweep import read_sweep

    if local and address:
        raise UserError(Problem("--local", "", "trains in this process; leave out --address"))
    spec = read_sweep(file, profile, sets or (), seeds, data)
    plan = _planned(spec, _cache(cache))
    view = _sweep_view()
    result = _drive(plan, results, cache, _connect(spec, local, address, workers, dashboard), view)
    _say_result(plan, results, result)
    raise typer.Exit(_exit_code(result))


def _sweep_view() -> View:
    from rich.console import Console

    from cvkan.report.live import LineView, LiveView

    console = Console()
    return LiveView(console) if console.is_terminal else LineView(_say)


def _connect(spec: SweepSpec, local: bool, address: str | None, workers: int | None, dashboard: bool) -> Callable[[], Backend]:
    def connect() -> Backend:
        asked = spec.resources
        if local:
            from cvkan.orchestrator.local_backend import LocalBackend, local_device

            return LocalBackend(local_device(asked.gpus))
        from cvkan.orchestrator.ray_backend import RayBackend

        _say("starting Ray ..." if address is None else f"joining the Ray cluster at {address} ...")
        backend = RayBackend(spec.folder, asked.cpus, asked.gpus, address, workers, dashboard)
        if backend.dashboard_url:
            _say(f"Ray dashboard: {backend.dashboard_url}")
        return backend

    return connect


def _drive(plan: Plan, results: Path, cache: Path | None, connect: Callable[[], Backend], view: View) -> Result:
    from cvkan.orchestrator.ledger import Ledger
    from cvkan.orchestrator.run import Driver

    for arm in plan.dropped:
        typer.secho(f"left out: {arm.label}: {arm.reason}", err=True, fg=typer.colors.YELLOW)
    ledger = Ledger(results.absolute() / plan.spec.folder)
    result = Driver(plan, ledger, connect, view, _cache(cache)).run(_command())
    for path in ledger.damaged:
        lost = "its curves are lost" if "curves" in path else "its trials were trained again"
        typer.secho(f"{path}: is damaged and was put aside; {lost}", err=True, fg=typer.colors.YELLOW)
    return result


def _say_result(plan: Plan, results: Path, result: Result) -> None:
    if result.held == len(plan.trials):
        _say(f"{plan.spec.folder}: all {result.held} trials are in the ledger; nothing to train")
    if result.stopped:
        typer.secho(f"stopped early: {result.stopped}; {result.left} trials were not started", err=True, fg=typer.colors.YELLOW)
    if result.failures:
        typer.secho(f"{result.failures} trials failed; `cvkan sweep` again tries them once more", err=True, fg=typer.colors.RED)
    _say(f"read the answer with: cvkan report {shlex.quote(str(results / plan.spec.folder))}")


def _exit_code(result: Result) -> int:
    if result.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if result.failures or result.stopped else 0


@app.command()
def plan(
    file: File,
    profile: Profile = None,
    sets: Sets = None,
    seeds: Seeds = None,
    results: Results = Path("results"),
    data: DataRoot = None,
    cache: Cache = None,
) -> None:
    """Show what a sweep would train: arms, solved widths, parameters, seeds, and what the ledger already holds."""
    from rich.console import Console

    from cvkan.orchestrator.ledger import Ledger
    from cvkan.orchestrator.sweep import read_sweep
    from cvkan.report.plan_table import render_plan

    made = _planned(read_sweep(file, profile, sets or (), seeds, data), _cache(cache))
    Console().print(render_plan(made, Ledger(results / made.spec.folder).statuses()))


@app.command()
def train(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", callback=_home, help="A sweep file to take the trial from; its axes take their first values."),
    ] = None,
    profile: Profile = None,
    sets: Sets = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="The trial's seed.")] = 0,
    results: Results = Path("results"),
    data: DataRoot = None,
    cache: Cache = None,
) -> None:
    """Train one trial in this process, a line an epoch; its row goes to results/train."""
    from rich.console import Console

    from cvkan.orchestrator import load
    from cvkan.orchestrator.load import Node
    from cvkan.orchestrator.sweep import TRAIN, sweep_from
    from cvkan.report.live import EpochView

    source = str(file or "the defaults")
    tree = load.read(file) if file else Node({}, source)
    if isinstance(tree.value, dict):  # anything else is refused below, with its place
        tree = load.put(tree, ("name",), Node(TRAIN, source))
    spec = sweep_from(tree, source, profile, sets or (), f"{seed},", data, one_trial=True)
    made = _planned(spec, _cache(cache))
    result = _drive(made, results, cache, _connect(spec, True, None, None, False), EpochView(Console()))
    if result.held:
        typer.echo(f"this trial is in the ledger already: cvkan report {results / 'train'}")
    raise typer.Exit(_exit_code(result))


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", callback=_home, help="A results folder, or one sweep's folder in it.")
    ] = Path("results"),
    format: Annotated[Format, typer.Option("--format", "-f", help="What to write.")] = Format.terminal,
    metric: Annotated[str | None, typer.Option("--metric", "-m", help="The column to report, such as test_loss.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", callback=_home, help="A file to write to, instead of the terminal.")
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show every arm of large sweeps.")] = False,
) -> None:
    """Show what the ledgers say: failures first, the best arm, claims, means with 95% intervals over seeds."""
    from cvkan.orchestrator.ledger import find
    from cvkan.report.summary import summarise

    summaries, problems = [], []
    for ledger in find(folder):
        try:
            trials, curves = ledger.tables()
            summaries.append(summarise(trials, curves, ledger.read_plan(), metric))
        except UserError as error:
            problems += error.problems  # the other sweeps are reported all the same
            continue
        for path in ledger.damaged:
            typer.secho(f"{path}: is damaged; its rows are missing here", err=True, fg=typer.colors.YELLOW)
    if problems and not summaries:
        raise UserError(problems)
    _write_report(summaries, format, output, show_all)
    for problem in problems:
        typer.secho(f"left out: {problem}", err=True, fg=typer.colors.RED)
    raise typer.Exit(EXIT_FAILED if problems else 0)


def _write_report(summaries: Sequence[SweepSummary], format: Format, output: Path | None, show_all: bool) -> None:
    from rich.console import Console

    from cvkan.report.terminal import render_terminal
    from cvkan.report.text import render_csv, render_json, render_markdown

    if format is Format.terminal and output is None:
        Console().print(render_terminal(summaries, show_all=show_all))
        return
    if format is Format.terminal:
        console = Console(width=100)
        with console.capture() as captured:
            console.print(render_terminal(summaries, show_all=show_all))
        text = captured.get()
    else:
        text = {Format.markdown: render_markdown, Format.csv: render_csv, Format.json: render_json}[format](summaries)
    if output is None:
        typer.echo(text, nl=not text.endswith("\n"))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(Problem(str(output), "", f"cannot be written: {error.strerror}")) from None


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help=f"{', '.join(KINDS)}; all of them if left out.")] = None,
    sweeps: Annotated[Path, typer.Option("--sweeps", callback=_home, help="Folder of sweep files.")] = Path("sweeps"),
) -> None:
    """Name the models, data sets, norms, poolings, optimizers and sweeps at hand, each with a line about it."""
    from rich.console import Console

    if kind is not None and kind not in KINDS:
        raise UserError(Problem("cvkan list", kind, f"is unknown; {did_you_mean(kind, KINDS)}"))
    from cvkan.catalogue import catalogue
    from cvkan.report.plan_table import render_catalogue

    Console().print(render_catalogue(catalogue([kind] if kind else KINDS, sweeps)))


@app.command()
def doctor(
    results: Results = Path("results"),
    data: Annotated[Path, typer.Option("--data", callback=_home, help="Folder with data sets.")] = Path("data"),
    cache: Cache = None,
) -> None:
    """Check versions, devices, folders and data; exit code 1 if something needs mending."""
    from rich.console import Console

    from cvkan.doctor import examine
    from cvkan.report.plan_table import render_checks

    checks = examine(data, results, _cache(cache))
    Console().print(render_checks(checks))
    raise typer.Exit(0 if all(check.well for check in checks) else EXIT_FAILED)


@app.command()
def generate(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            callback=_home,
            help="A trial's key or its beginning, its folder of checkpoints, or a sweep's folder (its best trial).",
        ),
    ],
    prompt: Annotated[str, typer.Option("--prompt", help="The text to continue; a line's end if left out.")] = "",
    length: Annotated[int, typer.Option("--length", min=1, help="Bytes to write.")] = 500,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=100, help="0 takes the likeliest byte; 1 draws as learned.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Draw from the likeliest so many bytes only.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the draws: the same one writes the same text.")] = 0,
    results: Results = Path("results"),
    cache: Cache = None,
) -> None:
    """Continue a text with the best weights of a trial of the domain charlm. Notes go to the standard error output."""
    from cvkan.domains import DOMAINS
    from cvkan.errors import DataError
    from cvkan.generate import continued, find_run, load_run, picker, prompt_notes, shown, unseen
    from cvkan.models.protocol import Streaming

    if math.isnan(temperature):
        raise UserError(Problem("--temperature", "", "expected a number from 0 to 100; got nan"))
    found = find_run(run, results)
    trained = load_run(found)
    text = prompt.encode("utf-8", "surrogateescape")
    notes = [*([found.note] if found.note else []), *prompt_notes(text, trained.task, isinstance(trained.model, Streaming))]
    if text and _cache(cache).is_dir():
        with contextlib.suppress(DataError):  # a run can be read from without its data
            data = DOMAINS[trained.config.domain].load(trained.config.data, _cache(cache))
            notes += [f"the training part has no byte {byte}" for byte in unseen(text, data.train.x)]
    for note in notes:
        typer.secho(note, err=True, fg=typer.colors.YELLOW)
    written = continued(trained.model, text, trained.task.shape[0], length, picker(temperature, top_k, seed))
    typer.echo(shown(text + written))


Domain = Annotated[str | None, typer.Option("--domain", help="The domain of the data set, where several have one of that name.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The data set, such as digits or cifar10; cvkan list data names them.")]


def _data_config(name: str, domain: str | None, sets: list[str] | None, data: str | None) -> tuple[str, Any]:
    from cvkan.domains import DOMAINS
    from cvkan.orchestrator.load import Node
    from cvkan.orchestrator.options import with_sets
    from cvkan.orchestrator.spec import data_from

    where = "the command line"
    having = [each for each, module in DOMAINS.items() if name in module.DATA_SETS]
    if domain is None and not having:
        names = [each for module in DOMAINS.values() for each in module.DATA_SETS]
        raise UserError(Problem(where, "data.name", f"{name!r} is unknown; {did_you_mean(name, names)}"))
    if domain is None and len(having) > 1:
        raise UserError(Problem(where, "data.name", f"{name!r} is a data set of {' and '.join(having)}; say which with --domain"))
    domain = domain or having[0]
    chosen = {"domain": Node(domain, where), "data": Node({"name": Node(name, where)}, where)}
    return data_from(with_sets(Node(chosen, where), sets or (), data))


@data_app.command("prepare")
def data_prepare(
    name: Name,
    domain: Domain = None,
    data: DataRoot = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")] = False,
    sets: Sets = None,
    cache: Cache = None,
) -> None:
    """Decode a data set into the cache, once; sweeps do it by themselves."""
    from cvkan.domains import DOMAINS
    from cvkan.errors import DataError

    chosen, settings = _data_config(name, domain, sets, data)
    fetches = "download" in type(settings).model_fields
    if download and fetches:
        settings = settings.model_copy(update={"download": True})
    try:
        folder = DOMAINS[chosen].prepare(settings, _cache(cache))
    except DataError as error:
        if not download or fetches:
            raise
        raise UserError([Problem("--download", "", f"cvkan cannot fetch {name}: {problem}") for problem in error.problems]) from None
    typer.echo(f"{name}: decoded in {folder}")


@data_app.command("check")
def data_check(name: Name, domain: Domain = None, data: DataRoot = None, sets: Sets = None, cache: Cache = None) -> None:
    """Read a decoded data set again, compare it with its checksum, and tell its sizes."""
    from cvkan.domains import DOMAINS

    chosen, settings = _data_config(name, domain, sets, data)
    for line in DOMAINS[chosen].check(settings, _cache(cache)):
        typer.echo(line)
