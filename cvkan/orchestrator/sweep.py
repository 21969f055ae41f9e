"""A sweep file, its profile and the command line's `--set` as one checked SweepSpec: axes, ties, claims, seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvkan.errors import Problem, UserError, did_you_mean
from cvkan.orchestrator import load
from cvkan.orchestrator.load import Node, Scalar
from cvkan.orchestrator.spec import NAME, SECTIONS, Claim, Limits, Match, Resources, Sweep, validate

TRIAL_PARTS = ("domain", *SECTIONS)


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis: what is laid into the trial, and the scalar that names it in tables and columns."""

    node: Node
    label: Scalar


@dataclass(frozen=True)
class SweepSpec:
    """A checked sweep. The trial is still a tree: an arm's values are laid upon it before it becomes settings."""

    name: str
    question: str
    profile: str | None
    source: str
    trial: Node
    axes: dict[str, tuple[AxisValue, ...]]
    ties: tuple[tuple[str, ...], ...]
    exclude: tuple[dict[str, Scalar], ...]
    match: Match | None
    match_where: str
    seeds: tuple[int, ...]
    claims: tuple[Claim, ...]
    limits: Limits
    resources: Resources
    checkpoints: str

    @property
    def folder(self) -> str:
        """The sweep's folder under the results: its name, and its profile's, so that their results do not mix."""
        return f"{self.name}@{self.profile}" if self.profile else self.name


def read_sweep(path: Path, profile: str | None = None, sets: Sequence[str] = (), seeds: str | None = None) -> SweepSpec:
    """The sweep of a file with a profile, `--set` texts and `--seeds` laid upon it. UserError with every Problem."""
    return sweep_from(load.read(path), str(path), profile, sets, seeds)


def sweep_from(
    tree: Node, source: str, profile: str | None = None, sets: Sequence[str] = (), seeds: str | None = None, one_trial: bool = False
) -> SweepSpec:
    """See `read_sweep`; `tree` is the file's. `one_trial` leaves the axes out, each with its first value in the trial."""
    if not isinstance(tree.value, dict):
        raise UserError(Problem(tree.where, "", "expected a sweep: settings such as `name: my_sweep`"))
    problems: list[Problem] = []
    tree = _with_profile(tree, profile, problems)
    if one_trial:
        tree = _single(tree)
    for text in sets:
        tree = _with_set(tree, text, problems)
    if seeds is not None:
        tree = load.put(tree, ("seeds",), _seeds_text(seeds, problems))
    sweep = validate(Sweep, tree, "", problems)
    if sweep is None or problems:
        raise UserError(problems)
    children = tree.value if isinstance(tree.value, dict) else {}
    if not NAME.fullmatch(sweep.name):
        text = f"{sweep.name!r} cannot name a folder; use letters, digits, - and _, at most 64"
        problems.append(Problem(children["name"].where, "name", text))
    axes = _axes(children.get("axes"), problems)
    ties = _ties(children.get("zip"), axes, problems)
    exclude = tuple(_point(node, axes, "exclude", problems) for node in _items(children.get("exclude")))
    for claim in _items(children.get("claims")):
        for side in ("better", "than"):
            if isinstance(claim.value, dict) and side in claim.value:
                _point(claim.value[side], axes, f"claims.{side}", problems)
    if problems:
        raise UserError(problems)
    return SweepSpec(
        name=sweep.name,
        question=" ".join(sweep.question.split()),
        profile=profile,
        source=source,
        trial=children.get("trial", Node({}, source)),
        axes=axes,
        ties=ties,
        exclude=exclude,
        match=sweep.match,
        match_where=children["match"].where if sweep.match else source,
        seeds=tuple(range(sweep.seeds)) if isinstance(sweep.seeds, int) else tuple(dict.fromkeys(sweep.seeds)),
        claims=tuple(sweep.claims),
        limits=sweep.limits,
        resources=sweep.resources,
        checkpoints=sweep.checkpoints,
    )


def _single(tree: Node) -> Node:
    children = dict(tree.value) if isinstance(tree.value, dict) else {}
    trial = children.get("trial", Node({}, tree.where))
    axes = children.get("axes", Node({}, tree.where)).value
    for path, values in axes.items() if isinstance(axes, dict) else ():
        if isinstance(values.value, list) and values.value:
            trial = load.replace(trial, tuple(path.split(".")), values.value[0])
    left_out = ("axes", "zip", "exclude", "match", "claims")
    return Node({**{key: child for key, child in children.items() if key not in left_out}, "trial": trial}, tree.where)


def _items(node: Node | None) -> list[Node]:
    return node.value if node is not None and isinstance(node.value, list) else []


def _with_profile(tree: Node, profile: str | None, problems: list[Problem]) -> Node:
    children = tree.value if isinstance(tree.value, dict) else {}
    profiles = children.get("profiles", Node({}, tree.where))
    if not isinstance(profiles.value, dict):
        return tree  # the settings of a sweep say what is wrong with it
    allowed = [name for name in Sweep.model_fields if name not in ("name", "profiles")]
    for name, overlay in profiles.value.items():
        if not NAME.fullmatch(name):
            problems.append(Problem(overlay.where, f"profiles.{name}", "cannot name a folder; use letters, digits, - and _"))
        for key, child in (overlay.value if isinstance(overlay.value, dict) else {}).items():
            if key not in allowed:
                text = f"unknown setting of a profile; {did_you_mean(key, allowed, Sweep.synonyms)}"
                problems.append(Problem(child.where, f"profiles.{name}.{key}", text))
    if profile is None:
        return tree
    if profile not in profiles.value:
        text = f"{profile!r} is not a profile of this sweep; {did_you_mean(profile, profiles.value)}"
        problems.append(Problem("--profile", "", text if profiles.value else "this sweep has no profiles"))
        return tree
    return load.merge(tree, profiles.value[profile])


def _with_set(tree: Node, text: str, problems: list[Problem]) -> Node:
    path, equals, value = text.partition("=")
    path, where = path.strip(), f"--set {text}"
    if not equals or not path:
        problems.append(Problem(where, "", "expected path=value, such as model.n_layers=4"))
        return tree
    try:
        node = load.parse(value, where) if value.strip() else Node(None, where)
    except UserError as error:
        problems.extend(error.problems)
        return tree
    node = _at(node, where)
    first, _, rest = path.partition(".")
    if first == "trial":
        path, (first, _, rest) = rest, rest.partition(".")
    children = tree.value if isinstance(tree.value, dict) else {}
    axes = children.get("axes", Node({}, "")).value
    if first in TRIAL_PARTS:
        taken = [axis for axis in (axes if isinstance(axes, dict) else {}) if axis == path or path.startswith(axis + ".")]
        if taken:
            problems.append(Problem(where, path, f"is an axis of this sweep; set its values with axes.{taken[0]}=[...]"))
            return tree
        return load.put(tree, ("trial", *path.split(".")), node)
    if first == "axes":
        return load.put(tree, ("axes", rest), node)
    settable = [name for name in Sweep.model_fields if name not in ("trial", "profiles")]
    if first not in settable:
        text = f"unknown setting; {did_you_mean(first, [*TRIAL_PARTS, *settable], Sweep.synonyms)}"
        problems.append(Problem(where, path, text))
        return tree
    return load.put(tree, tuple(path.split(".")), node)


def _at(node: Node, where: str) -> Node:
    """The same values, all placed at `where`."""
    if isinstance(node.value, dict):
        return Node({key: _at(child, where) for key, child in node.value.items()}, where)
    if isinstance(node.value, list):
        return Node([_at(child, where) for child in node.value], where)
    return Node(node.value, where)


def _seeds_text(text: str, problems: list[Problem]) -> Node:
    """--seeds 8 (0 to 7) or --seeds 3,5,7."""
    where = f"--seeds {text}"
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        problems.append(Problem(where, "", "expected a number of seeds such as 8, or a list such as 3,5,7"))
        return Node(1, where)
    if "," not in text:
        return Node(numbers[0], where)
    return Node([Node(number, where) for number in numbers], where)


def _axes(node: Node | None, problems: list[Problem]) -> dict[str, tuple[AxisValue, ...]]:
    axes: dict[str, tuple[AxisValue, ...]] = {}
    children = node.value if node is not None and isinstance(node.value, dict) else {}
    for path, values in children.items():
        if path.split(".")[0] not in TRIAL_PARTS:
            text = f"an axis names a setting of a trial, such as model.n_layers; {did_you_mean(path.split('.')[0], TRIAL_PARTS)}"
            problems.append(Problem(values.where, f"axes.{path}", text))
        elif not isinstance(values.value, list):
            problems.append(Problem(values.where, f"axes.{path}", "expected a list of values, such as [1, 2, 4]"))
        elif not values.value:
            problems.append(Problem(values.where, f"axes.{path}", "is empty; expected at least one value"))
        else:
            labels = _labels(values.value)
            for label in {label for label in labels if [str(other) for other in labels].count(str(label)) > 1}:
                problems.append(Problem(values.where, f"axes.{path}", f"{label!r} stands twice"))
            axes[path] = tuple(AxisValue(child, label) for child, label in zip(values.value, labels, strict=True))
    for path in axes:
        for other in axes:
            if path.startswith(other + "."):
                problems.append(Problem(children[path].where, f"axes.{path}", f"lies inside the axis {other}"))
    return axes


def _labels(values: Iterable[Node]) -> list[Scalar]:
    """A scalar names itself; a mapping is named by its `name` where that is unique, else by its settings."""
    plains = [value.plain() for value in values]
    names = [plain.get("name") if isinstance(plain, dict) else None for plain in plains]
    labels: list[Scalar] = []
    for plain, name in zip(plains, names, strict=True):
        if isinstance(plain, dict):
            rest = ", ".join(f"{key}={_word(value)}" for key, value in plain.items() if key != "name")
            full = f"{name} ({rest})" if name and rest else str(name or rest)
            labels.append(str(name) if name is not None and names.count(name) == 1 else full)
        else:
            labels.append(_word(plain) if isinstance(plain, list) else plain)
    return labels


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _ties(node: Node | None, axes: Mapping[str, Sequence[AxisValue]], problems: list[Problem]) -> tuple[tuple[str, ...], ...]:
    """`zip: [[a, b]]`, or `zip: [a, b]` for one group: the axes of a group move together."""
    if node is None or not isinstance(node.value, list):
        return ()
    groups = [Node(node.value, node.where)] if all(isinstance(item.value, str) for item in node.value) else node.value
    ties: list[tuple[str, ...]] = []
    for group in groups:
        names = [str(item.value) for item in _items(group)]
        before = len(problems)
        for name in names:
            if name not in axes:
                problems.append(Problem(group.where, "zip", f"{name!r} is no axis of this sweep; {did_you_mean(name, axes)}"))
            elif any(name in tie for tie in ties):
                problems.append(Problem(group.where, "zip", f"{name!r} is tied twice"))
        if len(names) < 2:
            problems.append(Problem(group.where, "zip", "expected lists of two or more axes, such as [[model.n_layers, optimizer.lr]]"))
        elif len(problems) == before and len({len(axes[name]) for name in names}) > 1:
            lengths = ", ".join(f"{name} has {len(axes[name])} values" for name in names)
            problems.append(Problem(group.where, "zip", f"tied axes must be equally long: {lengths}"))
        if names:
            ties.append(tuple(names))
    return tuple(ties) if groups and groups[0].value else ()


def _point(node: Node, axes: Mapping[str, Sequence[AxisValue]], path: str, problems: list[Problem]) -> dict[str, Scalar]:
    """A mapping from axes to one of their values each: what `exclude` and claims choose arms by."""
    point: dict[str, Scalar] = {}
    if not isinstance(node.value, dict) or not node.value:
        problems.append(Problem(node.where, path, "expected values of axes, such as {model.n_layers: 2}"))
        return point
    for axis, child in node.value.items():
        if axis not in axes:
            text = f"is no axis of this sweep; {did_you_mean(axis, axes)}" if axes else "this sweep has no axes"
            problems.append(Problem(child.where, f"{path}.{axis}", text))
            continue
        labels = [value.label for value in axes[axis]]
        value = child.plain()
        if isinstance(value, dict | list) or value not in labels:
            shown = ", ".join(str(label) for label in labels)
            problems.append(Problem(child.where, f"{path}.{axis}", f"{value!r} is not a value of this axis; valid: {shown}"))
            continue
        point[axis] = value
    return point
