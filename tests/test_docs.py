"""README and docs: every command is run, every example works, every setting, column and status is named."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pytest
import typer

import cvkan.models
from cvkan import cli, optimizers, reference
from cvkan.domains import image
from cvkan.domains.task import Task
from cvkan.models import MODELS, norms, poolings
from cvkan.optimizers import OPTIMIZERS
from cvkan.orchestrator.ledger import CORE, CURVES, FINAL, HEAD, STATUSES, TAIL
from cvkan.orchestrator.load import parse
from cvkan.orchestrator.plan import make_plan
from cvkan.orchestrator.run import cached_hash, figure_names
from cvkan.orchestrator.spec import TRIAL_PARTS, Claim, Limits, LossSettings, Match, Resources, Sweep, TrainSettings
from cvkan.orchestrator.sweep import sweep_from
from cvkan.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/sweep_file.md", "docs/settings.md", "docs/results.md", "docs/extending.md", "docs/benchmarks.md")

SMALL = ["--set", "train.epochs=1", "--set", "data.n_train=128", "--set", "data.n_validation=64", "--set", "data.n_test=64"]
SHRUNK = {"sweep": ["--local", "--seeds", "1", "--set", "resources.gpus=0", *SMALL], "train": SMALL}
"""Options that make a command of the docs short."""

PARSED_ONLY = {
    "cvkan data prepare cifar10 --download": "needs the internet",
    "cvkan plan sweeps/depth_vs_width.yaml --profile full": "needs CIFAR-10",
    "cvkan sweep sweeps/depth_vs_width.yaml --profile full": "needs CIFAR-10 and a GPU",
    "cvkan report results/depth_vs_width@full": "needs the sweep above",
    "cvkan sweep sweeps/depth_vs_width.yaml --profile full --address auto --data /shared/data": "needs a cluster",
}

Run = Callable[[str], None]


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of the page on which it starts."""

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in found]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def parsed(command: str) -> None:
    """Refuses a command or option that `cvkan` does not have."""
    found: Any = typer.main.get_command(cli.app)
    words = shlex.split(command)[1:]
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    found.make_context(command, words)


@pytest.fixture
def run(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command of a page, shrunk, in a folder that holds the shipped sweeps."""
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_dir))

    def command(line: str) -> None:
        parsed(line)
        if line in PARSED_ONLY:
            return
        words = shlex.split(line)
        monkeypatch.setattr(sys, "argv", [*words, *SHRUNK.get(words[1], [])])
        try:
            cli.main()
        except SystemExit as end:
            assert end.code in (0, None), f"{line}: {capsys.readouterr().err}"

    return command


@pytest.mark.parametrize("name", [name for name in PAGES if name != "docs/extending.md"])
def test_commands_and_python_of_a_page_work(name: str, run: Run) -> None:
    names: dict[str, Any] = {}
    for block in blocks(page(name)):
        if block.language == "sh":
            for line in block.text.splitlines():
                if line.startswith("cvkan "):
                    run(line)
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, str(ROOT / name), "exec"), names)
    if name == "README.md":
        assert len(names["means"].fetchall()) == 8
        assert set(names["curves"]["key"]) == set(names["trials"]["key"])
    if name == "docs/results.md":
        assert len(names["rows"]) == 8
        assert names["accuracy"] == pytest.approx(names["trial"]["test_accuracy"], abs=1e-12)


def test_the_list_of_commands_that_are_not_run_is_no_longer_than_it_must_be() -> None:
    shown = [line for name in PAGES for block in blocks(page(name)) if block.language == "sh" for line in block.text.splitlines()]
    assert set(PARSED_ONLY) <= set(shown)


def test_commands_within_sentences_exist() -> None:
    commands: Any = typer.main.get_command(cli.app)
    for name in PAGES:
        for words in (found.split() for found in re.findall(r"`cvkan ([a-z][^`]*)`", page(name))):
            found = commands
            while hasattr(found, "commands"):
                assert words[0] in found.commands, (name, words)
                found = found.commands[words.pop(0)]
            options = {option for parameter in found.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, (name, words)


def test_the_first_commands_of_the_readme_set_everything_up() -> None:
    first, demo = [block for block in blocks(page("README.md")) if block.language == "sh"][:2]
    assert first.text == "make demo\nmake test\n"
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", page("Makefile"), re.MULTILINE)
    assert recipe is not None
    assert recipe[1].replace("\t$(BIN)/", "") == demo.text


def test_the_make_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", page("Makefile"), re.MULTILINE))
    named = {target for name in PAGES for target in re.findall(r"(?:`|^)make ([a-z]+)", page(name), re.MULTILINE)}
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("name", [*PAGES, "CHANGELOG.md"])
def test_links_lead_to_files_and_headings(name: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", page(name), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings], target


@pytest.mark.parametrize("name", PAGES)
def test_files_that_a_page_names_exist(name: str) -> None:
    shown = page(name).replace("cvkan/models/low_rank.py", "")  # the one that the reader writes
    for path in re.findall(r"(?:cvkan|tests|benchmarks|sweeps|docs)/[\w/]+\.\w+", shown.replace("sweeps/my_sweep.yaml", "")):
        assert (ROOT / path).exists(), path


def yaml_blocks() -> list[Any]:
    found = [(name, block) for name in PAGES for block in blocks(page(name)) if block.language == "yaml"]
    return [pytest.param(block.text, id=f"{name}:{block.line}") for name, block in found]


@pytest.mark.parametrize("text", yaml_blocks())
def test_sweeps_that_are_shown_plan(text: str, cache_dir: Path) -> None:
    tree = parse(text if text.startswith("name:") else f"name: example\n{text}", "shown")
    plan = make_plan(sweep_from(tree, "shown"), cached_hash(cache_dir))
    assert len(plan.arms) > 1
    assert not plan.dropped
    for profile in tree.plain().get("profiles", {}):
        sweep_from(tree, "shown", profile)


def test_the_arms_that_the_page_counts(cache_dir: Path) -> None:
    (block,) = [block for block in blocks(page("docs/sweep_file.md")) if "exclude:" in block.text]
    plan = make_plan(sweep_from(parse(f"name: x\n{block.text}", "shown"), "shown"), cached_hash(cache_dir))
    assert [tuple(arm.values.values()) for arm in plan.arms] == [(8, "linear", "mean"), (8, "conv", "attention"), (16, "conv", "attention")]


# Tables


def tables(name: str) -> dict[str, dict[str, list[str]]]:
    """Heading to the rows of the table under it: a row's name to its other cells."""
    found: dict[str, dict[str, list[str]]] = {}
    heading = ""
    for line in page(name).splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").strip("`")
            assert heading not in found, heading
            found[heading] = {}
        elif line.startswith("| `"):
            first, *rest = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
            assert first.strip("`") not in found[heading], line
            found[heading][first.strip("`")] = rest
    return found


def documented_default(cell: str) -> object:
    return "required" if cell == "required" else parse(cell.strip("`"), cell).plain()


def real_default(cls: type[Settings], name: str) -> object:
    field = cls.model_fields[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else {} if isinstance(value, Settings) else value


def choices(cls: type[Settings], name: str) -> Iterable[str]:
    annotation = cls.model_fields[name].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def check_rows(cls: type[Settings], rows: Mapping[str, Sequence[str]]) -> None:
    """The rows name every field of a settings class but a registry's `name`, with its default and its choices."""
    names = [name for name in cls.model_fields if name != "name" or cls is Sweep]
    assert sorted(rows) == sorted(names)
    for name in names:
        kind, default, meaning = rows[name]
        assert documented_default(default) == real_default(cls, name), name
        assert meaning.endswith("."), name
        for choice in choices(cls, name):
            assert f"`{choice}`" in kind, (name, choice)


PLAIN: dict[str, type[Settings]] = {
    "The sweep": Sweep,
    "Match": Match,
    "Claims": Claim,
    "Limits": Limits,
    "Resources": Resources,
    "Train": TrainSettings,
    "Loss": LossSettings,
}


@pytest.mark.parametrize("heading", PLAIN)
def test_every_key_of_a_sweep_is_documented(heading: str) -> None:
    check_rows(PLAIN[heading], tables("docs/sweep_file.md")[heading])


def test_every_part_of_a_trial_is_documented(cache_dir: Path) -> None:
    rows = tables("docs/sweep_file.md")["The trial"]
    assert tuple(rows) == TRIAL_PARTS
    (arm,) = make_plan(sweep_from(parse("name: x", "x"), "x"), cached_hash(cache_dir)).arms
    for part, (_, default, _) in rows.items():
        asked, got = documented_default(default), arm.config.plain()[part]
        assert asked == (got if part == "domain" else {"name": got["name"]} if "name" in got else {})


def test_the_page_of_settings_is_what_the_code_says(request: pytest.FixtureRequest) -> None:
    path = ROOT / "docs" / "settings.md"
    if request.config.getoption("--accept-golden"):
        path.write_text(reference.page(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == reference.page(), "if that is right: pytest tests/test_docs.py --accept-golden"


def test_every_column_and_status_is_documented() -> None:
    found = tables("docs/results.md")
    figures = dict.fromkeys(figure_names(Task("image", (1, 8, 8), "classes", 10)), "double")
    columns = {name: str(kind) for name, kind in {**HEAD, **CORE, **figures, **TAIL}.items()}
    assert {name: row[0] for name, row in found["trials.parquet"].items()} == columns
    assert {name: row[0] for name, row in found["curves.parquet"].items()} == {name: str(kind) for name, kind in CURVES.items()}
    assert {name: row[1] == "keeps it" for name, row in found["Statuses"].items()} == {name: name in FINAL for name in STATUSES}


# The examples of extending.md

REGISTRIES: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "NORMS": (norms, norms.NORMS),
    "POOLINGS": (poolings, poolings.POOLINGS),
    "MODELS": (cvkan.models, MODELS),
    "OPTIMIZERS": (optimizers, OPTIMIZERS),
    "DATA_SETS": (image, image.DATA_SETS),
}
SECTIONS = [text for text in page("docs/extending.md").split("\n## ")[1:] if "```diff" in text]


@pytest.mark.parametrize("section", SECTIONS, ids=[section.splitlines()[0] for section in SECTIONS])
def test_an_example_of_an_extension_trains(section: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, diff, commands = blocks(section)
    assert (code.language, diff.language, commands.language) == ("python", "diff", "sh")
    path = tmp_path / "extension.py"
    path.write_text(code.text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("extension", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "extension", module)
    spec.loader.exec_module(module)
    declaration = diff.text.splitlines()[0].strip()
    owner, registry = REGISTRIES[declaration.partition(":")[0]]
    assert declaration in inspect.getsource(owner)
    (line,) = [line[1:] for line in diff.text.splitlines() if line.startswith("+")]
    for name, entry in eval(f"{{{line}}}", vars(module)).items():
        assert name not in registry
        monkeypatch.setitem(registry, name, entry)
    for line in commands.text.splitlines():
        run(line)
    assert (tmp_path / "results" / "train" / "trials.parquet").exists()


def test_every_dictionary_of_the_page_has_an_example() -> None:
    assert [name for name in REGISTRIES if any(f"\n {name}: dict" in section for section in SECTIONS)] == list(REGISTRIES)
