"""From a sweep to its arms, trials and packs. Pure: files and data are reached only through `data_hash`."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cvkan.errors import Problem, UserError
from cvkan.models import MODELS
from cvkan.orchestrator import load
from cvkan.orchestrator.load import Node, Scalar
from cvkan.orchestrator.match import count_parameters, solve
from cvkan.orchestrator.spec import Match, TrialConfig, config_from
from cvkan.orchestrator.sweep import AxisValue, SweepSpec

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
    return " ".join(f"{word}={value}" for word, value in zip(words, values.values(), strict=True)) or "defaults"


def trial_key(config: TrialConfig, data_hash: str, seed: int) -> str:
    """The first 16 hex digits of the SHA-256 of the settings, the data and the seed."""
    text = canonical({"config": config.identity(), "data": data_hash, "seed": seed})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def points(spec: SweepSpec) -> Iterator[dict[str, AxisValue]]:
    """The points of the axes in the file's order: tied axes move together, excluded points are left out."""
    groups: list[tuple[str, ...]] = []
    for path in spec.axes:
        tie = next((tie for tie in spec.ties if path in tie), (path,))
        if tie not in groups:
            groups.append(tie)
    columns = [list(zip(*(spec.axes[path] for path in group), strict=True)) for group in groups]
    for choice in itertools.product(*columns):
        flat = {path: value for group, values in zip(groups, choice, strict=True) for path, value in zip(group, values, strict=True)}
        point = {path: flat[path] for path in spec.axes}
        labels = {path: value.label for path, value in point.items()}
        if not any(all(labels[path] == value for path, value in rule.items()) for rule in spec.exclude):
            yield point


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
    hashes = {}
    for arm in arms:
        data = canonical(arm.config.plain()["data"] | {"domain": arm.config.domain})
        if data not in hashes:
            hashes[data] = data_hash(arm.config)
        hashes[arm.id] = hashes[data]
    trials = [Trial(trial_key(arm.config, hashes[arm.id], seed), arm, seed, hashes[arm.id]) for seed in spec.seeds for arm in arms]
    _refuse_twins(spec, trials)
    return Plan(spec, tuple(arms), tuple(dropped), tuple(trials))


def _nothing_left(spec: SweepSpec, dropped: Sequence[Dropped]) -> list[Problem]:
    if not dropped:
        return [Problem(spec.source, "exclude", "leaves no arm to train")]
    return [Problem(spec.match_where, "match", f"no arm can be matched; {arm.label}: {arm.reason}") for arm in dropped]


def _refuse_twins(spec: SweepSpec, trials: Sequence[Trial]) -> None:
    seen: dict[str, Trial] = {}
    for trial in trials:
        if trial.key in seen:
            text = f"the arms {seen[trial.key].arm.label!r} and {trial.arm.label!r} are the same trial"
            raise UserError(Problem(spec.source, "axes", text))
        seen[trial.key] = trial


def _arm(spec: SweepSpec, point: dict[str, AxisValue], sizes: dict[str, int]) -> Arm | Dropped:
    values = {path: value.label for path, value in point.items()}
    tree = spec.trial
    for path, value in point.items():
        tree = load.replace(tree, tuple(path.split(".")), value.node)
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
    model = MODELS[config.model.identity()["name"]]
    path = f"model.{model.width}" if match.by == "width" else match.by
    field = path.removeprefix("model.")
    annotation = type(config.model).model_fields.get(field)
    if not path.startswith("model.") or annotation is None or annotation.annotation is not int:
        widths = ", ".join(f"model.{name} (an int)" for name, info in type(config.model).model_fields.items() if info.annotation is int)
        raise UserError(
            Problem(spec.match_where, "match.by", f"{match.by!r} is no width of {config.model.identity()['name']}; valid: width, {widths}")
        )
    if path in values:
        raise UserError(Problem(spec.match_where, "match.by", f"{path} is an axis of this sweep, so it cannot be solved"))
    step = model.width_step(config.model) if field == model.width else 1

    def sized(width: int) -> int:
        return _size(config_from(load.replace(tree, tuple(path.split(".")), Node(width, spec.match_where))), sizes)

    try:
        width = solve(sized, match.to, step)
    except UserError as error:
        return Dropped(label_of(values), f"{path} cannot be varied: {error.problems[0].message}")
    off = width.size / match.to - 1
    if abs(off) > match.within:
        reason = f"nearest to {match.to:,} parameters is {width.size:,} ({off:+.1%}) at {path}={width.value}, outside {match.within:.1%}"
        return Dropped(label_of(values), reason)
    chosen = config_from(load.replace(tree, tuple(path.split(".")), Node(width.value, spec.match_where)))
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
