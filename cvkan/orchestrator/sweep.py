"""A sweep file, its profile and the command line's `--set` as one checked SweepSpec: axes, ties, claims, seeds."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvkan.errors import Problem, UserError, did_you_mean
from cvkan.orchestrator import load
from cvkan.orchestrator.load import Node, Scalar
from cvkan.orchestrator.options import NOT_OF_ONE_TRIAL, seeds_node, with_data, with_set
from cvkan.orchestrator.spec import (
    NAME,
    TRIAL_PARTS,
    Claim,
    Limits,
    Match,
    Resources,
    Sweep,
    config_from,
    section_problems,
    shown,
    validate,
)

CHECKED_POINTS = 1000
"""Points whose settings are looked at too where the sweep itself has mistakes."""


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
    tree: Node
    """The whole file with profile and options laid upon it: where a setting of the sweep stands."""
    trial: Node
    axes: dict[str, tuple[AxisValue, ...]]
    ties: tuple[tuple[str, ...], ...]
    exclude: tuple[dict[str, Scalar], ...]
    match: Match | None
    seeds: tuple[int, ...]
    claims: tuple[Claim, ...]
    limits: Limits
    resources: Resources
    checkpoints: str

    @property
    def folder(self) -> str:
        """The sweep's folder under the results: its name, and its profile's, so that their results do not mix."""
        return f"{self.name}@{self.profile}" if self.profile else self.name


def read_sweep(
    path: Path, profile: str | None = None, sets: Sequence[str] = (), seeds: str | None = None, data: str | None = None
) -> SweepSpec:
    """The sweep of a file with a profile, `--set` texts, `--seeds` and `--data` laid upon it. UserError with every Problem."""
    return sweep_from(load.read(path), str(path), profile, sets, seeds, data)


def sweep_from(
    tree: Node,
    source: str,
    profile: str | None = None,
    sets: Sequence[str] = (),
    seeds: str | None = None,
    data: str | None = None,
    one_trial: bool = False,
) -> SweepSpec:
    """See `read_sweep`; `tree` is the file's. `one_trial` leaves the axes out, each with its first value in the trial."""
    if not isinstance(tree.value, dict):
        raise UserError(Problem(tree.where, "", f"expected a sweep: settings such as `name: my_sweep`; got {shown(tree.plain())}"))
    problems: list[Problem] = []
    tree = _with_profile(tree, profile, problems)
    if one_trial:
        tree = _single(tree)
    for text in sets:
        tree = with_set(tree, text, problems, NOT_OF_ONE_TRIAL if one_trial else {})
    tree = with_data(tree, data, problems)
    if one_trial:
        tree = _first_values(tree)  # of axes that --set has laid upon it
    if seeds is not None:
        tree = load.put(tree, ("seeds",), seeds_node(seeds, problems))
    children = tree.value if isinstance(tree.value, dict) else {}
    sweep = validate(Sweep, tree, "", problems)
    _check_name(children.get("name"), problems)
    if sweep is not None and sweep.name == TRAIN and not one_trial:
        problems.append(Problem(tree.where_of(("name",)), "name", f"{TRAIN!r} is the folder of `cvkan train`; choose another name"))
    trial = children.get("trial", Node({}, tree.where))
    problems.extend(section_problems(trial) if isinstance(trial.value, dict) else [])
    axes = _axes(children.get("axes"), problems)
    ties = _ties(children.get("zip"), axes, problems)
    exclude = _exclude(children.get("exclude"), axes, problems)
    sides = _sides(children.get("claims"), axes, problems)
    if not problems and next(grid(axes, ties, exclude), None) is None:
        problems.append(Problem(tree.where_of(("exclude",)), "exclude", "leaves no arm to train"))
    if problems or sweep is None:
        raise UserError([*problems, *_trial_problems(trial, axes, ties, exclude)])
    return SweepSpec(
        name=sweep.name,
        question=" ".join(sweep.question.split()),
        profile=profile,
        source=source,
        tree=tree,
        trial=trial,
        axes=axes,
        ties=ties,
        exclude=exclude,
        match=sweep.match,
        seeds=tuple(range(sweep.seeds)) if isinstance(sweep.seeds, int) else tuple(dict.fromkeys(sweep.seeds)),
        claims=tuple(claim.model_copy(update=chosen) for claim, chosen in zip(sweep.claims, sides, strict=True)),
        limits=sweep.limits,
        resources=sweep.resources,
        checkpoints=sweep.checkpoints,
    )


TRAIN = "train"
"""Name of the sweeps of one trial that `cvkan train` makes."""

MAX_ARMS = 100_000
"""Points of the axes; more would be planned for hours, and never trained."""


def grid(
    axes: Mapping[str, Sequence[AxisValue]], ties: Sequence[Sequence[str]], exclude: Sequence[Mapping[str, Scalar]]
) -> Iterator[dict[str, AxisValue]]:
    """The points of the axes in the file's order: tied axes move together, excluded points are left out."""
    groups: list[tuple[str, ...]] = []
    for path in axes:
        tie = next((tuple(tie) for tie in ties if path in tie), (path,))
        if tie not in groups:
            groups.append(tie)
    columns = [list(zip(*(axes[path] for path in group), strict=True)) for group in groups]
    if math.prod(map(len, columns)) > MAX_ARMS:
        raise UserError(Problem("", "axes", f"make {math.prod(map(len, columns)):,} arms; at most {MAX_ARMS:,} are planned"))
    for choice in itertools.product(*columns):
        flat = {path: value for group, values in zip(groups, choice, strict=True) for path, value in zip(group, values, strict=True)}
        point = {path: flat[path] for path in axes}
        if not any(all(point[path].label == value for path, value in rule.items()) for rule in exclude):
            yield point


def tree_at(trial: Node, point: Mapping[str, AxisValue]) -> Node:
    """The trial with the values of a point laid into it. A mapping with a `name` replaces its section, one without is laid upon it."""
    for path, value in point.items():
        over = isinstance(value.node.value, dict) and "name" not in value.node.value
        trial = (load.put if over else load.replace)(trial, tuple(path.split(".")), value.node)
    return trial


def _trial_problems(
    trial: Node,
    axes: Mapping[str, Sequence[AxisValue]],
    ties: Sequence[Sequence[str]],
    exclude: Sequence[Mapping[str, Scalar]],
) -> list[Problem]:
    """What is wrong with the settings of trials: it is told together with the mistakes of the sweep itself."""
    problems: list[Problem] = []
    for point in itertools.islice(grid(axes, ties, exclude), CHECKED_POINTS) if isinstance(trial.value, dict) else ():
        try:
            config_from(tree_at(trial, point))
        except UserError as error:
            problems.extend(error.problems)
    return problems


def _check_name(node: Node | None, problems: list[Problem]) -> None:
    if node is not None and isinstance(node.value, str) and not NAME.fullmatch(node.value):
        text = f"{shown(node.value)} cannot name a folder; use letters, digits, - and _, at most 64"
        problems.append(Problem(node.where, "name", text))


def _single(tree: Node) -> Node:
    """The sweep without what speaks of several arms; its axes give their first values to the trial."""
    tree = _first_values(tree)
    children = tree.value if isinstance(tree.value, dict) else {}
    left_out = ("axes", "zip", "exclude", "match", "claims")
    return Node({key: child for key, child in children.items() if key not in left_out}, tree.where)


def _first_values(tree: Node) -> Node:
    """The sweep with its axes' first values laid into the trial. Axes without values stay, to be told as such."""
    children = tree.value if isinstance(tree.value, dict) else {}
    axes = children.get("axes")
    if axes is None or not isinstance(axes.value, dict):
        return tree
    firsts = {path: node.value[0] for path, node in axes.value.items() if isinstance(node.value, list) and node.value}
    rest = {path: node for path, node in axes.value.items() if path not in firsts}
    point = {path: AxisValue(_unlabelled(node), None) for path, node in firsts.items()}
    trial = tree_at(children.get("trial", Node({}, tree.where)), point)
    return Node({**children, "axes": Node(rest, axes.where), "trial": trial}, tree.where)


def _items(node: Node | None) -> list[Node]:
    return node.value if node is not None and isinstance(node.value, list) else []


def _with_profile(tree: Node, profile: str | None, problems: list[Problem]) -> Node:
    children = tree.value if isinstance(tree.value, dict) else {}
    profiles = children.get("profiles", Node({}, tree.where))
    if not isinstance(profiles.value, dict):
        return tree  # the settings of a sweep say what is wrong with it
    allowed = [name for name in Sweep.model_fields if name not in ("name", "profiles")]
    known: dict[str, dict[str, Node]] = {}
    for name, overlay in profiles.value.items():
        if not NAME.fullmatch(name):
            text = "cannot name a folder; use letters, digits, - and _, at most 64"
            problems.append(Problem(overlay.where, f"profiles.{shown(name)}", text))
        known[name] = {}
        for key, child in (overlay.value if isinstance(overlay.value, dict) else {}).items():
            if key in allowed:
                known[name][key] = child
            else:
                text = f"unknown setting of a profile; {did_you_mean(key, allowed, Sweep.synonyms)}"
                problems.append(Problem(child.where, f"profiles.{name}.{key}", text))
    if profile is None:
        return tree
    if profile not in known:
        text = f"no such profile; {did_you_mean(profile, known)}" if known else "this sweep has no profiles"
        problems.append(Problem(f"--profile {profile}", "", text))
        return tree
    return load.merge(tree, Node({**known[profile]}, profiles.value[profile].where))


def _axes(node: Node | None, problems: list[Problem]) -> dict[str, tuple[AxisValue, ...]]:
    axes: dict[str, tuple[AxisValue, ...]] = {}
    children = node.value if node is not None and isinstance(node.value, dict) else {}
    for path, values in children.items():
        part, *rest = path.split(".")
        if part not in TRIAL_PARTS or not all(rest) or len(rest) > (part != "domain"):
            hint = did_you_mean(part, TRIAL_PARTS) if part not in TRIAL_PARTS else f"{path!r} is none"
            problems.append(Problem(values.where, f"axes.{path}", f"an axis names a setting of a trial, such as model.n_layers; {hint}"))
        elif not isinstance(values.value, list):
            text = f"expected a list of values, such as [1, 2, 4]; got {shown(values.plain())}"
            problems.append(Problem(values.where, f"axes.{path}", text))
        elif not values.value:
            problems.append(Problem(values.where, f"axes.{path}", "is empty; expected at least one value"))
        else:
            problems += [Problem(each.where, f"axes.{path}", wrong) for each in values.value if (wrong := _label_mistake(each))]
            labels = _labels(values.value)
            _refuse_twice(path, values.value, labels, problems)
            axes[path] = tuple(AxisValue(_unlabelled(child), label) for child, label in zip(values.value, labels, strict=True))
    for path in axes:
        for other in axes:
            if path.startswith(other + "."):
                problems.append(Problem(children[path].where, f"axes.{path}", f"lies inside the axis {other}"))
    return axes


def _refuse_twice(path: str, nodes: Sequence[Node], labels: Sequence[Scalar], problems: list[Problem]) -> None:
    seen: set[object] = set()
    for node, label in zip(nodes, labels, strict=True):
        equal = (isinstance(label, bool), label)  # 1 and 1.0 are the same value, 1 and true are not
        if equal in seen or str(label) in seen:
            problems.append(Problem(node.where, f"axes.{path}", f"{shown(label)} stands twice"))
        seen.update((equal, str(label)))


def _labels(values: Iterable[Node]) -> list[Scalar]:
    """A scalar names itself; a mapping is named by its `label`, else by its `name` where that is unique, else by its settings."""
    plains = [value.plain() for value in values]
    names = [plain.get("name") if isinstance(plain, dict) and not _is_labelled(plain) else None for plain in plains]
    labels: list[Scalar] = []
    for plain, name in zip(plains, names, strict=True):
        if _is_labelled(plain):
            labels.append(plain["label"])
        elif isinstance(plain, dict):
            rest = ", ".join(f"{key}={_word(value)}" for key, value in plain.items() if key != "name")
            full = f"{name} ({rest})" if name and rest else str(name or rest)
            labels.append(str(name) if name is not None and names.count(name) == 1 else full)
        else:
            labels.append(_word(plain) if isinstance(plain, list) else plain)
    return labels


def _unlabelled(node: Node) -> Node:
    """A mapping without its `label`, which is no setting."""
    if not isinstance(node.value, dict):
        return node
    return Node({key: child for key, child in node.value.items() if key != "label"}, node.where)


def _label_mistake(node: Node) -> str | None:
    if not isinstance(node.value, dict) or "label" not in node.value or _is_labelled(node.plain()):
        return None
    return f"label: expected text that is not empty; got {shown(node.value['label'].plain())}"


def _is_labelled(plain: object) -> bool:
    return isinstance(plain, dict) and isinstance(plain.get("label"), str) and bool(plain["label"])


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _ties(node: Node | None, axes: Mapping[str, Sequence[AxisValue]], problems: list[Problem]) -> tuple[tuple[str, ...], ...]:
    """`zip: [[a, b]]`, or `zip: [a, b]` for one group: the axes of a group move together."""
    groups = _items(node)
    if node is not None and groups and all(isinstance(item.value, str) for item in groups):
        groups = [node]
    ties: list[tuple[str, ...]] = []
    for group in groups:
        names = [item.value for item in _items(group) if isinstance(item.value, str)]
        if len(names) < 2 or len(names) != len(_items(group)):
            text = "expected groups of two or more axes, such as [[model.n_layers, optimizer.lr]]"
            problems.append(Problem(group.where, "zip", text))
            continue
        mistakes = _tie_mistakes(names, axes, ties)
        problems.extend(Problem(group.where, "zip", text) for text in mistakes)
        if not mistakes:
            ties.append(tuple(names))
    return tuple(ties)


def _tie_mistakes(names: Sequence[str], axes: Mapping[str, Sequence[AxisValue]], ties: Iterable[Sequence[str]]) -> list[str]:
    """What is wrong with a group of tied axes, in words."""
    unknown = [f"{name!r} is no axis of this sweep; {did_you_mean(name, axes)}" for name in names if name not in axes]
    twice = [f"{name!r} is tied twice" for name in dict.fromkeys(names) if names.count(name) > 1 or any(name in tie for tie in ties)]
    if unknown or twice:
        return unknown + twice
    if len({len(axes[name]) for name in names}) > 1:
        lengths = ", ".join(f"{name} has {len(axes[name])}" for name in names)
        return [f"tied axes need equally many values: {lengths}"]
    return []


def _exclude(node: Node | None, axes: Mapping[str, Sequence[AxisValue]], problems: list[Problem]) -> tuple[dict[str, Scalar], ...]:
    rules = [(f"exclude.{index}", rule) for index, rule in enumerate(_items(node)) if isinstance(rule.value, dict)]
    points = [_point(rule, axes, path, problems) for path, rule in rules]
    return tuple(point for point in points if point)


def _sides(node: Node | None, axes: Mapping[str, Sequence[AxisValue]], problems: list[Problem]) -> list[dict[str, dict[str, Scalar]]]:
    """`better` and `than` of each claim, by the labels of the axes' values."""
    sides: list[dict[str, dict[str, Scalar]]] = []
    for index, claim in enumerate(_items(node)):
        children = claim.value if isinstance(claim.value, dict) else {}
        chosen: dict[str, dict[str, Scalar]] = {
            side: _point(children[side], axes, f"claims.{index}.{side}", problems)
            for side in ("better", "than")
            if side in children and isinstance(children[side].value, dict)
        }
        if len(chosen) == 2 and chosen["better"] and chosen["better"] == chosen["than"]:
            problems.append(Problem(children["than"].where, f"claims.{index}.than", "chooses the same arms as better"))
        sides.append(chosen)
    return sides


def _point(node: Node, axes: Mapping[str, Sequence[AxisValue]], path: str, problems: list[Problem]) -> dict[str, Scalar]:
    """A mapping from axes to the label of one of their values each; empty, with Problems, where it is no such mapping."""
    point: dict[str, Scalar] = {}
    children = node.value if isinstance(node.value, dict) else {}
    if not children:
        problems.append(Problem(node.where, path, "expected values of axes, such as {model.n_layers: 2}"))
    for axis, child in children.items():
        if axis not in axes:
            text = f"is no axis of this sweep; {did_you_mean(axis, axes)}" if axes else "this sweep has no axes"
            problems.append(Problem(child.where, f"{path}.{axis}", text))
            continue
        asked = _labels([child])[0]
        labels = [value.label for value in axes[axis]]
        same = [label for label in labels if label == asked and isinstance(label, bool) == isinstance(asked, bool)]
        if same:
            point[axis] = same[0]
        else:
            text = f"{shown(asked)} is not a value of this axis; valid: {', '.join(str(label) for label in labels)}"
            problems.append(Problem(child.where, f"{path}.{axis}", text))
    return point if len(point) == len(children) else {}
