"""Settings of a trial and of a sweep, and the way from a located tree to them: every mistake becomes a Problem."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from cvkan.domains import DOMAINS
from cvkan.domains.protocol import Domain
from cvkan.domains.task import Task
from cvkan.errors import DataError, Problem, UserError, did_you_mean
from cvkan.models import MODELS
from cvkan.optimizers import OPTIMIZERS, OptimizerSettings
from cvkan.orchestrator.load import Node
from cvkan.settings import Settings

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(value: object) -> float:
    """Seconds from "90s", "30m", "8h", "1h30m" or a plain number of seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and re.fullmatch(r"(\d+(\.\d+)?[smhd])+", value):
        seconds = sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", value))
    else:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise PydanticCustomError("duration", "expected a time such as 90s, 30m, 8h or 1h30m")
    return seconds


Duration = Annotated[float, BeforeValidator(duration)]


class TrainSettings(Settings):
    """How a trial is trained."""

    epochs: Annotated[int, Field(ge=0)] = 20
    """Passes over the training part; 0 evaluates the initial weights."""
    batch_size: Count = 128
    """Examples per update; the last, smaller batch of an epoch is left out."""
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the whole gradient; null turns clipping off."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of linear and convolution layers; polar and phase operations stay in fp32. fp16 scales the loss."""
    patience: Count | None = None
    """Early stopping: epochs without a better validation figure before a trial ends; null trains all epochs."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "batch": "batch_size", "amp": "precision", "dtype": "precision", "clip": "grad_clip", "early_stopping": "patience",
    }  # fmt: skip


class LossSettings(Settings):
    """The loss beside the task's own."""

    label_smoothing: Fraction = 0.0
    """Share of the target's mass that goes to all classes alike."""
    diversity: Weight = 0.0
    """Weight of the phase-diversity regulariser; only models with phases."""
    phase_anchor: Weight = 0.0
    """Weight of the phase-anchor regulariser; only models with phases."""

    synonyms: ClassVar[Mapping[str, str]] = {"smoothing": "label_smoothing"}


REGULARISER_WEIGHTS = ("diversity", "phase_anchor")


@dataclass(frozen=True)
class TrialConfig:
    """Everything but the seed that determines a trial. Each part is validated by its own settings class."""

    domain: str
    data: Settings
    model: Settings
    optimizer: OptimizerSettings
    train: TrainSettings
    loss: LossSettings

    def identity(self) -> dict[str, Any]:
        """What the trial's key is made of: all settings that can change its result."""
        parts = {part: getattr(self, part).identity() for part in SECTIONS}
        return {"domain": self.domain, **parts}

    def plain(self) -> dict[str, Any]:
        """All settings as JSON values, also those outside the key; `config_from` reads it back."""
        parts = {part: json.loads(getattr(self, part).model_dump_json()) for part in SECTIONS}
        return {"domain": self.domain, **parts}

    def task(self) -> Task:
        """The task that data set and domain set; DataError if that cannot be told (a missing folder)."""
        return DOMAINS[self.domain].task(self.data)


SECTIONS = ("data", "model", "optimizer", "train", "loss")


class Match(Settings):
    """Solve a width so that all arms are of equal size."""

    of: Literal["params"] = "params"
    to: Annotated[int, Field(ge=1)]
    """Trainable parameters asked of every arm."""
    by: str = "width"
    """The setting that is solved, such as model.d_complex; `width` takes each model's own."""
    within: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Largest relative distance from `to`; an arm that cannot come nearer is dropped, and named."""


class Claim(Settings):
    """A statement that the sweep tests: the arms that agree with `better` against those that agree with `than`."""

    says: Annotated[str, Field(min_length=1)]
    metric: str = "test_accuracy"
    better: dict[str, Any]
    than: dict[str, Any]
    margin: Weight = 0.0
    """Smallest difference that matters, in the metric's unit."""


class Limits(Settings):
    """When to give up on a trial or a sweep."""

    trial_time: Duration | None = None
    """Longest time of one trial, such as 30m; beyond it the trial ends as timed_out."""
    sweep_time: Duration | None = None
    """Longest time of the sweep; beyond it no further trial starts."""
    retries: Annotated[int, Field(ge=0)] = 1
    """How often a trial that failed or was lost is tried again in the same sweep."""
    stop_after_failures: Count = 5
    """Failures in a row after which nothing more is started: one bad device must not burn the queue."""


class Resources(Settings):
    """What one worker gets."""

    cpus: Annotated[int, Field(ge=1)] = 1
    """CPU cores, and so threads, of a worker."""
    gpus: Annotated[float, Field(ge=0, le=8)] | Literal["auto"] = "auto"
    """GPUs of a worker, a fraction shares one among workers; auto is 1 where there are GPUs, else 0."""
    pack: Count = 1
    """Trials of an arm (its seeds) that one worker trains side by side."""


class Sweep(Settings):
    """The parts of a sweep file that need no registry; axes, trial and claims are checked by `sweep_from`."""

    name: str
    question: str = ""
    trial: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, Any] = Field(default_factory=dict)
    zip: list[Any] = Field(default_factory=list)
    exclude: list[dict[str, Any]] = Field(default_factory=list)
    match: Match | None = None
    seeds: Annotated[int, Field(ge=1, le=10_000)] | Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)] = 1
    claims: list[Claim] = Field(default_factory=list)
    limits: Limits = Limits()
    resources: Resources = Resources()
    checkpoints: Literal["both", "best", "none"] = "both"
    """What is kept of a finished trial's weights: the best and the last state, the best only, or none."""
    profiles: dict[str, dict[str, Any]] = Field(default_factory=dict)

    synonyms: ClassVar[Mapping[str, str]] = {"axis": "axes", "grid": "axes", "seed": "seeds", "trials": "trial", "params": "match"}


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

AnySettings = TypeVar("AnySettings", bound=Settings)


def validate(cls: type[AnySettings], node: Node, path: str, problems: list[Problem]) -> AnySettings | None:
    """An instance of `cls` from `node`; None, with a Problem for each mistake, if there are any."""
    try:
        return cls.model_validate(node.plain())
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            problems.append(_problem(cls, node, path, detail))
    return None


def _problem(cls: type[Settings], node: Node, path: str, detail: ErrorDetails) -> Problem:
    steps = [step for step in detail["loc"] if _is_step(node, step)]
    while steps and detail["type"] != "missing" and not _stands(node, steps):
        steps.pop()  # pydantic appends the branch of a union to the location
    name = ".".join(str(step) for step in ([path] if path else []) + list(steps))
    return Problem(node.where_of(tuple(steps)), name, _message(_class_at(cls, steps), steps, detail))


def _is_step(node: Node, step: object) -> bool:
    return isinstance(step, int) or (isinstance(step, str) and re.fullmatch(r"[^\[\]()]+", step) is not None)


def _stands(node: Node, steps: list[Any]) -> bool:
    for step in steps:
        children = node.value if isinstance(node.value, dict) else dict(enumerate(node.value)) if isinstance(node.value, list) else {}
        if step not in children:
            return False
        node = children[step]
    return True


def _class_at(cls: type[Settings], steps: list[Any]) -> type[Settings]:
    """The settings class that holds the last step of a location."""
    for step in steps[:-1]:
        field = cls.model_fields.get(step) if isinstance(step, str) else None
        if field is not None:
            found = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(a, type)]
            cls = next((a for a in found if issubclass(a, Settings)), cls)
    return cls


def _message(cls: type[Settings], steps: list[Any], detail: ErrorDetails) -> str:
    value, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown setting; {did_you_mean(str(steps[-1]), cls.model_fields, cls.synonyms)}"
        case "missing":
            return "is missing"
        case "literal_error":
            return f"expected {context['expected']}; got {_shown(value)}"
        case "unknown_name":
            return detail["msg"]
        case _:
            wanted = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")
            wanted = wanted if wanted.startswith(("expected", "needs")) or detail["type"] == "nesterov" else f"expected {wanted}"
            return f"{wanted}; got {_shown(value)}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _section(tree: Node, name: str) -> Node:
    children = tree.value if isinstance(tree.value, dict) else {}
    return children.get(name, Node({}, tree.where))


def _named(
    tree: Node, section: str, registry: Mapping[str, Any], default: str, settings_of: Any, problems: list[Problem]
) -> tuple[str, Any]:
    """The registry name of a section and its validated settings."""
    node = _section(tree, section)
    if not isinstance(node.value, dict):
        problems.append(Problem(node.where, section, f"expected settings such as {{name: {default}}}; got {_shown(node.plain())}"))
        return default, None
    name = node.value["name"].plain() if "name" in node.value else default
    if not isinstance(name, str) or name not in registry:
        problems.append(
            Problem(node.where_of(("name",)), f"{section}.name", f"{_shown(name)} is unknown; {did_you_mean(str(name), registry)}")
        )
        return default, None
    return name, validate(settings_of(registry[name]), node, section, problems)


def config_from(tree: Node) -> TrialConfig:
    """The settings of one trial from its tree. UserError with all Problems found."""
    problems: list[Problem] = []
    if not isinstance(tree.value, dict):
        raise UserError(Problem(tree.where, "trial", f"expected settings; got {_shown(tree.plain())}"))
    known = ("domain", *SECTIONS)
    for key, child in tree.value.items():
        if key not in known:
            problems.append(Problem(child.where, key, f"unknown setting; {did_you_mean(key, known)}"))
    domain = _section(tree, "domain").plain() or "image"
    if not isinstance(domain, str) or domain not in DOMAINS:
        where = tree.where_of(("domain",))
        raise UserError([*problems, Problem(where, "domain", f"{_shown(domain)} is unknown; {did_you_mean(str(domain), DOMAINS)}")])
    sets = DOMAINS[domain].DATA_SETS
    _, data = _named(tree, "data", sets, next(iter(sets)), lambda entry: entry.Settings, problems)
    model_name, model = _named(tree, "model", MODELS, "cv_kan", lambda entry: entry.Settings, problems)
    _, optimizer = _named(tree, "optimizer", OPTIMIZERS, "adamw", lambda entry: entry, problems)
    train = validate(TrainSettings, _section(tree, "train"), "train", problems)
    loss = validate(LossSettings, _section(tree, "loss"), "loss", problems)
    if problems or data is None or model is None or optimizer is None or train is None or loss is None:
        raise UserError(problems)
    config = TrialConfig(domain, data, model, optimizer, train, loss)
    problems = _misfits(config, model_name, tree)
    if problems:
        raise UserError(problems)
    return config


def _misfits(config: TrialConfig, model_name: str, tree: Node) -> list[Problem]:
    """Settings that are right by themselves and cannot go together."""
    model = MODELS[model_name]
    try:
        task = config.task()
    except DataError as error:
        return [Problem(tree.where_of(("data",)), "data", problem.message) for problem in error.problems]
    if task.input not in model.inputs:
        fits = [name for name, other in MODELS.items() if task.input in other.inputs]
        text = f"{model_name} cannot use {task.input} input; models that can: {', '.join(fits)}"
        return [Problem(tree.where_of(("model", "name")), "model.name", text)]
    problems = []
    try:
        model.check(config.model, task)
    except ValueError as error:
        problems.append(Problem(_place(tree, "model", str(error)), "model", str(error)))
    for weight in REGULARISER_WEIGHTS:
        if getattr(config.loss, weight) > 0 and not model.has_phases:
            problems.append(Problem(tree.where_of(("loss", weight)), f"loss.{weight}", f"{model_name} has no phases to regularise"))
    return problems


def _place(tree: Node, section: str, text: str) -> str:
    """The line of the setting that a message names, or of its section."""
    node = _section(tree, section)
    named = (
        [child.where for key, child in node.value.items() if re.search(rf"\b{re.escape(key)}\b", text)]
        if isinstance(node.value, dict)
        else []
    )
    return named[0] if named else node.where


def config_of(plain: Mapping[str, Any]) -> TrialConfig:
    """The settings that `TrialConfig.plain` wrote down."""

    def located(value: Any) -> Node:
        if isinstance(value, Mapping):
            return Node({key: located(child) for key, child in value.items()}, "recorded settings")
        if isinstance(value, list):
            return Node([located(child) for child in value], "recorded settings")
        return Node(value, "recorded settings")

    return config_from(located(plain))


def data_sets(domain: str) -> Iterable[str]:
    """Names of a domain's data sets."""
    module: Domain = DOMAINS[domain]
    return module.DATA_SETS.keys()
