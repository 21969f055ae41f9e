"""The command line's `--set`, `--data` and `--seeds`, laid upon the tree of a sweep or of a trial."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from cvkan.domains import DOMAINS
from cvkan.errors import Problem, UserError, did_you_mean
from cvkan.models import MODELS
from cvkan.optimizers import OPTIMIZERS
from cvkan.orchestrator import load
from cvkan.orchestrator.load import Node
from cvkan.orchestrator.spec import TRIAL_PARTS, LossSettings, Sweep, TrainSettings
from cvkan.settings import Settings

NOT_OF_ONE_TRIAL = {
    "name": "a trial of `cvkan train` lies in results/train; only a sweep has a name of its own",
    "seeds": "a trial has one seed; set it with --seed",
}
"""Settings of a sweep that `cvkan train` sets itself, and what to say to those who set them."""


def with_sets(trial: Node, sets: Sequence[str], data: str | None = None) -> Node:
    """A trial's tree with `--set` texts and `--data` laid upon it. UserError with all Problems found."""
    problems: list[Problem] = []
    tree = Node({"trial": trial}, trial.where)
    for text in sets:
        tree = with_set(tree, text, problems)
    tree = with_data(tree, data, problems)
    if problems:
        raise UserError(problems)
    children = tree.value if isinstance(tree.value, dict) else {}
    return children["trial"]


def with_set(tree: Node, text: str, problems: list[Problem], refused: Mapping[str, str] = MappingProxyType({})) -> Node:
    """The sweep with one `--set` text laid upon it, or as it was with a Problem. `refused`: what to say of settings not to be set."""
    path, equals, value = text.partition("=")
    where = f"--set {text}"
    parts = tuple(path.strip().removeprefix("trial.").split("."))
    if not equals or not all(parts):
        problems.append(Problem(where, "", "expected path=value, such as model.n_layers=4"))
        return tree
    name = ".".join(parts)
    try:
        node = _at(load.parse(value, where), where) if value.strip() else Node(None, where)
    except UserError as error:
        problems.extend(Problem(where, name, problem.message) for problem in error.problems)
        return tree
    children = tree.value if isinstance(tree.value, dict) else {}
    if parts[0] in TRIAL_PARTS:
        return _in_trial(tree, parts, node, problems)
    if parts[0] == "axes" and len(parts) > 1:
        return load.put(tree, ("axes", ".".join(parts[1:])), node)
    if parts[0] in refused:
        problems.append(Problem(where, name, refused[parts[0]]))
        return tree
    settable = [field for field in Sweep.model_fields if field not in ("trial", "profiles")]
    if parts[0] not in settable:
        hint = _full_names(name, children.get("trial", Node({}, where))) or did_you_mean(
            parts[0], [*TRIAL_PARTS, *settable], Sweep.synonyms
        )
        problems.append(Problem(where, name, f"unknown setting; {hint}"))
        return tree
    return load.put(tree, parts, node)


def with_data(tree: Node, folder: str | None, problems: list[Problem]) -> Node:
    """The sweep with --data DIR laid upon its trial: the folder as it is written, which is no YAML."""
    where = f"--data {folder or repr(folder)}"
    if folder is None:
        return tree
    if not folder or load.CONTROL.search(folder):
        problems.append(Problem(where, "", "expected a folder" if not folder else "the name of a folder must not hold control characters"))
        return tree
    return _in_trial(tree, ("data", "root"), Node(folder, where), problems)


def _in_trial(tree: Node, parts: tuple[str, ...], node: Node, problems: list[Problem]) -> Node:
    """The sweep with `node` laid into its trial, unless an axis would lie upon it."""
    axes = tree.value["axes"].value if isinstance(tree.value, dict) and "axes" in tree.value else {}
    taken = [axis for axis in (axes if isinstance(axes, dict) else {}) if _touches(parts, node, tuple(axis.split(".")))]
    if taken:
        problems.append(Problem(node.where, taken[0], f"is an axis of this sweep; set its values with axes.{taken[0]}=[...]"))
        return tree
    return load.put(tree, ("trial", *parts), node)


def seeds_node(text: str, problems: list[Problem]) -> Node:
    """--seeds 8 (0 to 7), --seeds 3,5,7, or --seeds 3, for the seed 3 alone."""
    where = f"--seeds {text}"
    if not re.fullmatch(r"[0-9]{1,15}(,[0-9]{1,15})*,?", text.replace(" ", "")):
        problems.append(Problem(where, "", "expected a number of seeds such as 8, or a list such as 3,5,7"))
        return Node(1, where)
    numbers = [int(part) for part in text.split(",") if part.strip()]
    return Node([Node(number, where) for number in numbers] if "," in text else numbers[0], where)


def _full_names(name: str, trial: Node) -> str | None:
    """ "did you mean train.epochs?" for the setting `epochs` of a part of the trial; None where no part has it."""
    if name in Sweep.synonyms:
        return None
    classes = _classes(trial)
    exact = [section for section, those in classes.items() if any(name in cls.model_fields for cls in those)]
    found = [f"{section}.{name}" for section in exact]
    found = found or [f"{section}.{cls.synonyms[name]}" for section, those in classes.items() for cls in those if name in cls.synonyms]
    return f"did you mean {' or '.join(dict.fromkeys(found))}?" if found else None


def _classes(trial: Node) -> dict[str, list[type[Settings]]]:
    """The settings classes that each part of a trial may be of: the one that its name chooses, else all."""
    plain = trial.plain() if isinstance(trial.value, dict) else {}
    domain = plain.get("domain")
    domains = [DOMAINS[domain]] if isinstance(domain, str) and domain in DOMAINS else list(DOMAINS.values())
    sections: dict[str, list[tuple[str, type[Settings]]]] = {
        "data": [(name, entry.Settings) for each in domains for name, entry in each.DATA_SETS.items()],
        "model": [(name, model.Settings) for name, model in MODELS.items()],
        "optimizer": list(OPTIMIZERS.items()),
        "train": [("", TrainSettings)],
        "loss": [("", LossSettings)],
    }
    classes = {}
    for section, known in sections.items():
        chosen = plain[section].get("name") if isinstance(plain.get(section), dict) else None
        classes[section] = [cls for name, cls in known if name == chosen] or [cls for _, cls in known]
    return classes


def _touches(path: tuple[str, ...], node: Node, axis: tuple[str, ...]) -> bool:
    """Whether `node`, laid at `path`, changes what an axis sets."""
    shared = min(len(path), len(axis))
    if path[:shared] != axis[:shared]:
        return False
    for part in axis[shared:]:
        if not isinstance(node.value, dict) or part not in node.value:
            return False
        node = node.value[part]
    return True


def _at(node: Node, where: str) -> Node:
    """The same values, all placed at `where`."""
    if isinstance(node.value, dict):
        return Node({key: _at(child, where) for key, child in node.value.items()}, where)
    if isinstance(node.value, list):
        return Node([_at(child, where) for child in node.value], where)
    return Node(node.value, where)
