"""From a sweep to its arms, trials and packs. Pure: files and data are reached only through `data_hash`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cvkan.domains.objectives import OBJECTIVES, REACHED, figures
from cvkan.errors import DataError, Problem, UserError, did_you_mean, nearest
from cvkan.models import MODELS
from cvkan.orchestrator import load
from cvkan.orchestrator.ledger import COSTS
from cvkan.orchestrator.load import Node, Scalar
from cvkan.orchestrator.match import count_parameters, solve
from cvkan.orchestrator.spec import Match, TrialConfig, config_from, data_problems
from cvkan.orchestrator.sweep import AxisValue, SweepSpec, grid, tree_at

DataHash = Callable[[TrialConfig], str]
"""SHA-256 of a config's decoded data set."""


@dataclass(frozen=True)
class Matched:
    """A width that `match` chose."""

    path: str
    value: int


@dataclass(frozen=True)
class Arm:
    """One point of the axes: its values by axis, and the settings that they make."""

    values: dict[str, Scalar]
    config: TrialConfig
    n_params: int
    matched: Matched | None

    @property
    def id(self) -> str:
        """The values as canonical JSON: the arm's name in the ledger."""
        return canonical(self.values)

    @property
    def label(self) -> str:
        """The values in short, for people."""
        return label_of(self.values)


@dataclass(frozen=True)
class Trial:
    """An arm and a seed: the unit of results."""

    key: str
    arm: Arm
    seed: int
    data_hash: str


@dataclass(frozen=True)
class Dropped:
    """An arm that cannot be compared, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """All that a sweep is to train, in order: every arm's first seed, then every arm's second, ..."""

    spec: SweepSpec
    arms: tuple[Arm, ...]
    dropped: tuple[Dropped, ...]
    trials: tuple[Trial, ...]


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def label_of(values: dict[str, Scalar]) -> str:
    """ "n_layers=2 interaction=broadcast": the last word of each axis, or the whole path where that word is not unique."""
    last = [path.rsplit(".", 1)[-1] for path in values]
    words = [word if last.count(word) == 1 else path for path, word in zip(values, last, strict=True)]
    shown = [value if isinstance(value, str) else json.dumps(value) for value in values.values()]
    return " ".join(f"{word}={value}" for word, value in zip(words, shown, strict=True)) or "defaults"


def trial_key(config: TrialConfig, data_hash: str, seed: int) -> str:
    """The first 16 hex digits of the SHA-256 of the settings, the data and the seed."""
    text = canonical({"config": config.identity(), "data": data_hash, "seed": seed})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def points(spec: SweepSpec) -> Iterator[dict[str, AxisValue]]:
    """The points of the axes in the file's order: tied axes move together, excluded points are left out."""
    return grid(spec.axes, spec.ties, spec.exclude)


def make_plan(spec: SweepSpec, data_hash: DataHash) -> Plan:
    """Arms, trials and keys of a sweep. UserError with every mistake of every arm, each once."""
    problems: dict[Problem, None] = {}
    arms: list[Arm] = []
    dropped: list[Dropped] = []
    sizes: dict[str, int] = {}
    for point in points(spec):
        try:
            arm = _arm(spec, point, sizes)
        except UserError as error:
            problems.update(dict.fromkeys(error.problems))
            continue
        (dropped if isinstance(arm, Dropped) else arms).append(arm)  # type: ignore[arg-type]
    if problems:
        raise UserError(problems)
    if not arms:
        raise UserError(_nothing_left(spec, dropped))
    _check_metrics(spec, arms)
    hashes = _hashes(spec, arms, data_hash)
    trials = [Trial(trial_key(arm.config, hashes[arm.id], seed), arm, seed, hashes[arm.id]) for seed in spec.seeds for arm in arms]
    _refuse_twins(spec, trials)
    return Plan(spec, tuple(arms), tuple(dropped), tuple(trials))


def _hashes(spec: SweepSpec, arms: Sequence[Arm], data_hash: DataHash) -> dict[str, str]:
    """The data's hash by arm. UserError with a Problem for each data set that is missing or damaged."""
    problems: list[Problem] = []
    known: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for arm in arms:
        data = canonical(arm.config.plain()["data"] | {"domain": arm.config.domain})
        if data not in known:
            try:
                known[data] = data_hash(arm.config)
            except DataError as error:
                known[data] = ""
                problems.extend(data_problems(error, tree_at(spec.trial, _point_of(spec, arm))))
        hashes[arm.id] = known[data]
    if problems:
        raise UserError(problems)
    return hashes


def _point_of(spec: SweepSpec, arm: Arm) -> dict[str, AxisValue]:
    return {path: next(value for value in values if value.label == arm.values[path]) for path, values in spec.axes.items()}


def _check_metrics(spec: SweepSpec, arms: Sequence[Arm]) -> None:
    """Refuses claims about figures that trials do not have."""
    tasks = [arm.config.task() for arm in arms]
    reached = [REACHED] if any(arm.config.train.reach is not None for arm in arms) else []
    metrics = dict.fromkeys(name for task in tasks for name in OBJECTIVES[task.output].metrics)
    columns = dict.fromkeys(name for task in tasks for name in figures(OBJECTIVES[task.output].metrics, task.further))
    valid = [*columns, *metrics, *COSTS, *reached]
    problems = []
    for index, claim in enumerate(spec.claims):
        if claim.metric not in valid:
            where = spec.tree.where_of(("claims", index, "metric"))
            problems.append(Problem(where, f"claims.{index}.metric", f"{claim.metric!r} is unknown; {did_you_mean(claim.metric, valid)}"))
    if problems:
        raise UserError(problems)


def _nothing_left(spec: SweepSpec, dropped: Sequence[Dropped]) -> list[Problem]:
    first = {arm.reason: arm.label for arm in reversed(dropped)}
    where = spec.tree.where_of(("match",))
    return [Problem(where, "match", f"no arm can be matched; {label}: {reason}") for reason, label in reversed(first.items())]


def _refuse_twins(spec: SweepSpec, trials: Sequence[Trial]) -> None:
    """Refuses two arms of equal results: equal settings, but for those of the model that do not matter beside the others."""
    seen: dict[str, Trial] = {}
    for trial in trials[: len(trials) // len(spec.seeds)]:  # all arms, with their first seed
        result = canonical([_effective(trial.arm.config), trial.data_hash])
        if result in seen:
            first = seen[result].arm
            path, value = next((path, value) for path, value in _point_of(spec, trial.arm).items() if value.label != first.values[path])
            text = f"changes no result: {first.label!r} and {trial.arm.label!r} would be the same trial; keep one of its values"
            raise UserError(Problem(value.node.where, f"axes.{path}", text))
        seen[result] = trial


def _effective(config: TrialConfig) -> dict[str, Any]:
    """The settings that determine a result, without those of the model that have no effect beside the others (see `ModelClass.only`)."""
    identity = config.identity()
    model, task = identity["model"], config.task()
    present = {task.input, task.output, *(f"{name}={value}" for name, value in model.items())}
    idle = {name for name, kinds in MODELS[model["name"]].only.items() if not kinds & present}
    return {**identity, "model": {name: value for name, value in model.items() if name not in idle}}


def _arm(spec: SweepSpec, point: dict[str, AxisValue], sizes: dict[str, int]) -> Arm | Dropped:
    values = {path: value.label for path, value in point.items()}
    tree = tree_at(spec.trial, point)
    if spec.match is not None:
        return _matched(spec, spec.match, tree, values, sizes)
    config = config_from(tree)
    return Arm(values, config, _size(config, sizes), None)


def _size(config: TrialConfig, sizes: dict[str, int]) -> int:
    """Parameters of a config's model; arms that share it (an axis over the optimizer) count it once."""
    model = config.model.identity()
    task = config.task()
    key = canonical([model, repr(task)])
    if key not in sizes:
        sizes[key] = count_parameters(str(model["name"]), config.model, task)
    return sizes[key]


def _matched(spec: SweepSpec, match: Match, tree: Node, values: dict[str, Scalar], sizes: dict[str, int]) -> Arm | Dropped:
    config = config_from(tree)
    name = str(config.model.identity()["name"])
    model = MODELS[name]
    where = spec.tree.where_of(("match", "by"))
    widths = [field for field, info in type(config.model).model_fields.items() if info.annotation is int]
    if match.by == "width" and model.width is None:
        return Dropped(label_of(values), f"{name} has no width: the data set alone sets its size")
    path = f"model.{model.width}" if match.by == "width" else match.by
    field = path.removeprefix("model.")
    if not path.startswith("model.") or field not in widths:
        near = nearest(field, widths, type(config.model).synonyms)
        hint = f"did you mean model.{near}?" if near in widths else f"valid: {', '.join(['width', *(f'model.{each}' for each in widths)])}"
        raise UserError(Problem(where, "match.by", f"{match.by!r} is no width of {name}; {hint}"))
    if path in values:
        raise UserError(Problem(where, "match.by", f"{path} is an axis of this sweep, so it cannot be solved"))
    step = model.width_step(config.model) if field == model.width else 1

    def sized(width: int) -> int:
        return _size(config_from(load.replace(tree, tuple(path.split(".")), Node(width, where))), sizes)

    try:
        width = solve(sized, match.to, step)
    except UserError as error:
        return Dropped(label_of(values), f"{path} cannot be varied: {error.problems[0].message}")
    off = width.size / match.to - 1
    if abs(off) > match.within:
        reason = f"nearest to {match.to:,} parameters is {width.size:,} ({off:+.1%}) at {path}={width.value}, outside {match.within:.1%}"
        return Dropped(label_of(values), reason)
    chosen = config_from(load.replace(tree, tuple(path.split(".")), Node(width.value, where)))
    return Arm(values, chosen, width.size, Matched(path, width.value))


def packs(trials: Sequence[Trial], size: int) -> list[tuple[Trial, ...]]:
    """Trials of one arm, `size` at most together, in the order in which their first trials stand."""
    if size == 1:
        return [(trial,) for trial in trials]
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.arm.id, []).append(trial)
    chunks = [tuple(group[start : start + size]) for group in groups.values() for start in range(0, len(group), size)]
    order = {trial.key: place for place, trial in enumerate(trials)}
    return sorted(chunks, key=lambda chunk: order[chunk[0].key])
