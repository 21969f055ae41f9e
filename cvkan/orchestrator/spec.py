"""Settings of a trial and of a sweep, and the way from a located tree to them: every mistake becomes a Problem."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from cvkan.domains import DOMAINS
from cvkan.domains.task import Task
from cvkan.errors import DataError, Problem, UserError, did_you_mean
from cvkan.models import MODELS, misfit
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


def _gpus(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "auto" and not (number and 0 <= float(str(value)) <= 1):
        raise PydanticCustomError("gpus", "expected a number from 0 to 1, or auto")
    return value


def _seeds_kind(value: object) -> str:
    return "(list)" if isinstance(value, list) else "(number)"


Gpus = Annotated[float | Literal["auto"], BeforeValidator(_gpus)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
# The kinds are told apart before they are checked, so that a mistake is reported against the one that was meant.
Seeds = Annotated[
    Annotated[int, Field(ge=1, le=10_000), Tag("(number)")] | Annotated[list[Seed], Field(min_length=1), Tag("(list)")],
    Discriminator(_seeds_kind),
]


class TrainSettings(Settings):
    """How a trial is trained."""

    epochs: Annotated[int, Field(ge=0)] = 20
    """Passes over the training part; 0 evaluates the initial weights."""
    batch_size: Count = 128
    """Examples per update, at most the whole training part; the last, smaller batch of an epoch is left out."""
    grad_clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1.0
    """Largest norm of the whole gradient; null turns clipping off."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of linear and convolution layers; polar and phase operations stay in fp32. fp16 scales the loss."""
    patience: Count | None = None
    """Early stopping: evaluations without a better validation figure before a trial ends; null trains all epochs."""
    eval_every: Count = 1
    """Epochs between evaluations of the validation part; the last epoch is always followed by one."""
    reach: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """A value of the headline figure: the step at which the validation part first reaches it is the column reached_step."""
    stop_at_reach: bool = False
    """End a trial where it has reached `reach`."""
    eval_train: bool = False
    """Evaluate the training part too: its figures are the curve's split "fit"."""

    @model_validator(mode="after")
    def _something_to_reach(self) -> Self:
        if self.stop_at_reach and self.reach is None:
            raise PydanticCustomError("stop_at_reach", "stop_at_reach: true needs a value of reach")
        return self

    synonyms: ClassVar[Mapping[str, str]] = {
        "batch": "batch_size", "amp": "precision", "dtype": "precision", "clip": "grad_clip", "early_stopping": "patience",
        "eval_interval": "eval_every",
        "validate_every": "eval_every", "target": "reach",
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
        """All settings as JSON values, also those outside the key; `config_of` reads it back."""
        parts = {part: json.loads(getattr(self, part).model_dump_json()) for part in SECTIONS}
        return {"domain": self.domain, **parts}

    def task(self) -> Task:
        """The task that data set and domain set; DataError if that cannot be told (a missing folder)."""
        return DOMAINS[self.domain].task(self.data)


SECTIONS = ("data", "model", "optimizer", "train", "loss")
TRIAL_PARTS = ("domain", *SECTIONS)

MAX_SIZE = 1 << 24
"""Largest integer among a model's settings: a larger one is a slip, and torch cannot even describe its tensors."""


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
    """Packs that fail in a row, at their first try, after which nothing more is started: one bad device must not burn the queue."""


class Resources(Settings):
    """What one worker gets."""

    cpus: Annotated[int, Field(ge=1)] = 1
    """CPU cores, and so threads, of a worker."""
    gpus: Gpus = "auto"
    """GPUs of a worker: 1, or a fraction that shares one among workers; auto is 1 where there are GPUs, else 0."""
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
    seeds: Seeds = 1
    """A number of seeds, from 0 on, or a list of them."""
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
    steps: list[str | int] = []
    at = node
    for step in detail["loc"]:  # pydantic puts the branches of unions between the steps that are in the file
        child = _children(at).get(step)
        if child is not None:
            steps.append(step)
            at = child
    if detail["type"] == "missing":
        steps.append(detail["loc"][-1])
    if not steps and isinstance(detail["input"], dict):
        return _stated(cls, node, path, detail["msg"])  # a rule about several settings
    name = ".".join(str(step) for step in ([path] if path else []) + list(steps))
    return Problem(node.where_of(tuple(steps)), name, _message(_class_at(cls, steps), steps, detail))


def _children(node: Node) -> Mapping[Any, Node]:
    if isinstance(node.value, dict):
        return node.value
    return dict(enumerate(node.value)) if isinstance(node.value, list) else {}


def _stated(cls: type[Settings], node: Node, path: str, text: str) -> Problem:
    """A text that starts with a setting ("model.window 4 must be odd"), at that setting's place."""
    found = re.fullmatch(rf"(?:{path}\.)?(\w+):? (.+)", text, re.DOTALL)
    if found and found[1] in cls.model_fields:
        return Problem(node.where_of((found[1],)), f"{path}.{found[1]}", found[2])
    return Problem(node.where, path, text)


def _class_at(cls: type[Settings], steps: list[str | int]) -> type[Settings]:
    """The settings class that holds the last step of a location."""
    for step in steps[:-1]:
        field = cls.model_fields.get(step) if isinstance(step, str) else None
        if field is not None:
            found = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(a, type)]
            cls = next((a for a in found if issubclass(a, Settings)), cls)
    return cls


EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping, such as {{name: value}}",
    "model_type": "a mapping, such as {{name: value}}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_too_short": "text that is not empty",
    "too_short": "{min_length} or more values",
    "too_long": "{max_length} or fewer values",
    "literal_error": "{expected}",
}
"""What a value should have been, by pydantic's type of error."""


def _message(cls: type[Settings], steps: list[str | int], detail: ErrorDetails) -> str:
    value, kind = detail["input"], detail["type"]
    if kind == "extra_forbidden":
        return f"unknown setting; {did_you_mean(str(steps[-1]), cls.model_fields, cls.synonyms)}"
    if kind == "missing":
        return "is missing"
    if kind == "unknown_name":
        return detail["msg"]
    # Errors that a settings class raises itself say what they expect in their own words.
    limits = {name: f"{limit:,g}" if isinstance(limit, float) else limit for name, limit in detail.get("ctx", {}).items()}
    text = f"expected {EXPECTED[kind].format(**limits)}" if kind in EXPECTED else detail["msg"]
    if kind == "literal_error":
        text = text.replace("'", "").replace("True", "true").replace("False", "false")  # as YAML has them
    if kind.startswith("int_") and isinstance(value, float) and value.is_integer():
        return f"{text}; write {int(value)} instead of {value}"
    return f"{text}; got {shown(value)}"


def shown(value: object) -> str:
    """A value as a user wrote it, in short."""
    text = "nothing (null)" if value is None else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def section_problems(tree: Node) -> list[Problem]:
    """Parts of a trial that are unknown, or are no settings at all."""
    if not isinstance(tree.value, dict):
        return [Problem(tree.where, "trial", f"expected a mapping, such as {{model: {{n_layers: 4}}}}; got {shown(tree.plain())}")]
    problems = []
    for key, child in tree.value.items():
        if key not in TRIAL_PARTS:
            problems.append(Problem(child.where, key, f"unknown setting; {did_you_mean(key, TRIAL_PARTS)}"))
        elif key != "domain" and not isinstance(child.value, dict):
            problems.append(Problem(child.where, key, f"expected {EXAMPLES[key]}; got {shown(child.plain())}"))
    return problems


EXAMPLES = {
    "data": "settings such as {name: digits}",
    "model": "settings such as {name: cv_kan}",
    "optimizer": "settings such as {name: adamw}",
    "train": "settings such as {epochs: 20}",
    "loss": "settings such as {label_smoothing: 0.1}",
}


def _section(tree: Node, name: str) -> Node:
    """A part of a trial; empty settings where it is left out, or is no settings."""
    node = tree.value.get(name) if isinstance(tree.value, dict) else None
    return node if node is not None and isinstance(node.value, dict) else Node({}, node.where if node else tree.where)


def _named(
    tree: Node, section: str, registry: Mapping[str, Any], default: str, settings_of: Any, problems: list[Problem]
) -> tuple[str, Any]:
    """The registry name of a section and its validated settings."""
    node = _section(tree, section)
    name = node.value["name"].plain() if isinstance(node.value, dict) and "name" in node.value else default
    if not _known(name, registry, node.where_of(("name",)), f"{section}.name", problems):
        return default, None
    return name, validate(settings_of(registry[name]), node, section, problems)


def _data_settings(tree: Node, domain: str, problems: list[Problem]) -> tuple[str, Any]:
    """The name and settings of a data set; one of another domain is told as such."""
    sets = DOMAINS[domain].DATA_SETS
    node = _section(tree, "data")
    name = node.value["name"].plain() if isinstance(node.value, dict) and "name" in node.value else next(iter(sets))
    others = [other for other, module in DOMAINS.items() if name in module.DATA_SETS] if isinstance(name, str) else []
    if others and domain not in others:
        text = f"{name!r} is a data set of {' and '.join(others)}; set domain: {others[0]}"
        problems.append(Problem(node.where_of(("name",)), "data.name", text))
        return name, None
    return _named(tree, "data", sets, next(iter(sets)), lambda entry: entry.Settings, problems)


def _known(name: object, registry: Iterable[str], where: str, path: str, problems: list[Problem]) -> bool:
    """Whether a name is in a registry; if not, a Problem is added."""
    names = list(registry)
    if not isinstance(name, str):
        problems.append(Problem(where, path, f"expected a name, such as {names[0]}; got {shown(name)}"))
    elif name not in names:
        problems.append(Problem(where, path, f"{name!r} is unknown; {did_you_mean(name, names)}"))
    return name in names


def config_from(tree: Node) -> TrialConfig:
    """The settings of one trial from its tree. UserError with all Problems found."""
    problems = section_problems(tree)
    children = tree.value if isinstance(tree.value, dict) else {}
    domain = children["domain"].plain() if "domain" in children else "image"
    if not _known(domain, DOMAINS, tree.where_of(("domain",)), "domain", problems):
        raise UserError(problems)
    _, data = _data_settings(tree, domain, problems)
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


def data_from(tree: Node) -> tuple[str, Any]:
    """Domain and data settings of a trial's tree, whatever else stands in it. UserError with all Problems found."""
    problems: list[Problem] = []
    domain = tree.plain().get("domain", "image")
    if not _known(domain, DOMAINS, tree.where_of(("domain",)), "domain", problems):
        raise UserError(problems)
    _, data = _data_settings(tree, domain, problems)
    if problems:
        raise UserError(problems)
    return domain, data


def _misfits(config: TrialConfig, model_name: str, tree: Node) -> list[Problem]:
    """Settings that are right by themselves and cannot go together."""
    model = MODELS[model_name]
    node = _section(tree, "model")
    problems = []
    for name, value in config.model.identity().items():
        if isinstance(value, int) and value > MAX_SIZE:
            problems.append(Problem(node.where_of((name,)), f"model.{name}", f"expected at most {MAX_SIZE:,}; got {shown(value)}"))
    for weight in REGULARISER_WEIGHTS:
        if getattr(config.loss, weight) > 0 and not model.has_phases:
            problems.append(Problem(tree.where_of(("loss", weight)), f"loss.{weight}", f"{model_name} has no phases to regularise"))
    try:
        task = config.task()
    except DataError as error:
        return problems + data_problems(error, tree)
    reason = misfit(model_name, task)
    if reason is not None:
        if "features" in type(config.data).model_fields and model.inputs & {"waveform", "complex"}:
            reason += f"; or set data.features: {'stft' if task.input == 'waveform' else 'waveform'}"
        return [*problems, Problem(tree.where_of(("model", "name")), "model.name", reason)]
    if task.output == "forecast" and config.loss.label_smoothing > 0:
        problems.append(Problem(tree.where_of(("loss", "label_smoothing")), "loss.label_smoothing", "a forecast has no classes to smooth"))
    problems += _idle(model_name, task, node)
    try:
        model.check(config.model, task)
    except ValueError as error:
        problems.append(_stated(type(config.model), node, "model", str(error)))
    return problems


def _idle(model_name: str, task: Task, node: Node) -> list[Problem]:
    """Settings that were written down and would change nothing: an axis over one would train the same model twice."""
    problems = []
    for name, kinds in MODELS[model_name].only.items():
        if any("=" in kind for kind in kinds):
            continue  # one that depends on another setting may stand there while an axis varies the other
        at = node.value.get(name) if isinstance(node.value, dict) else None
        default = MODELS[model_name].Settings.model_fields[name].default
        if at is not None and at.where != RECORDED and at.value != default and not kinds & {task.input, task.output}:
            text = f"has no effect on {task.input} input with {task.output} output; it serves {', '.join(sorted(kinds))}"
            problems.append(Problem(at.where, f"model.{name}", text))
    return problems


def data_problems(error: DataError, tree: Node) -> list[Problem]:
    """What is wrong with a trial's data set, at the place of the setting that the text names, else of the data's settings."""
    problems = []
    for problem in error.problems:
        path = problem.path or "data"
        named = re.search(r"data\.\w+", f"{path} {problem.message}")
        where = tree.where_of(tuple(named[0].split("."))) if named else tree.where_of(("data",))
        problems.append(Problem(where, path, problem.message))
    return problems


RECORDED = "recorded settings"
"""Where the settings of `config_of` stand: all of them are written down there."""


def config_of(plain: Mapping[str, Any]) -> TrialConfig:
    """The settings that `TrialConfig.plain` wrote down."""

    def located(value: Any) -> Node:
        if isinstance(value, Mapping):
            return Node({key: located(child) for key, child in value.items()}, RECORDED)
        if isinstance(value, list):
            return Node([located(child) for child in value], RECORDED)
        return Node(value, RECORDED)

    return config_from(located(plain))
