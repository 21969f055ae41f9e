"""Equal size: the solved width against trying every width."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvkan.models import MODELS
from cvkan.orchestrator.match import MAX_WIDTH, count_parameters, solve
from fitting import choice_for, task_of


def counted(size: Callable[[int], int]) -> tuple[Callable[[int], int], list[int]]:
    calls: list[int] = []

    def sized(width: int) -> int:
        calls.append(width)
        return size(width)

    return sized, calls


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=120, max_size=120), st.integers(1, 3000), st.integers(1, 4))
def test_the_nearest_width_of_any_growing_size(steps: list[int], target: int, step: int) -> None:
    sizes = [sum(steps[: index + 1]) for index in range(len(steps))]

    def size(width: int) -> int:
        assert width % step == 0
        return sizes[min(width // step, len(sizes)) - 1] + 1000 * max(0, width // step - len(sizes))

    found = solve(size, target, step)
    best = min(range(1, 200), key=lambda index: (abs(size(index * step) - target), index))
    assert (found.value, found.size) == (best * step, size(best * step))


@given(st.integers(0, 50), st.integers(0, 500), st.integers(0, 5000), st.integers(1, 100_000_000))
def test_few_models_are_built_for_sizes_like_those_of_models(a: int, b: int, c: int, target: int) -> None:
    sized, calls = counted(lambda width: (a + 1) * width**2 + b * width + c)
    found = solve(sized, target)
    assert abs(found.size - target) <= min(abs((a + 1) * w**2 + b * w + c - target) for w in (found.value + 1, max(1, found.value - 1)))
    assert len(calls) == len(set(calls))
    assert len(calls) <= 25


def test_a_size_that_does_not_grow_ends() -> None:
    sized, calls = counted(lambda width: 7)
    assert solve(sized, 1000).value == 1
    assert max(calls) <= 4 * MAX_WIDTH


def test_the_smaller_of_two_equally_near() -> None:
    assert solve(lambda width: 10 * width, 15).value == 1
    assert solve(lambda width: 10 * width, 1).value == 1


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_counted_without_building_the_model(name: str) -> None:
    model = MODELS[name]
    tiny, task = model.tiny(), task_of(choice_for(name))
    real = sum(parameter.numel() for parameter in model(tiny, task).parameters() if parameter.requires_grad)
    assert count_parameters(name, tiny, task) == real


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.width is not None])
def test_every_model_can_be_matched_through_its_width(name: str) -> None:
    model = MODELS[name]
    tiny, task = model.tiny(), task_of(choice_for(name))
    step = model.width_step(tiny)

    def size(width: int) -> int:
        return count_parameters(name, tiny.model_copy(update={model.width: width}), task)

    found = solve(size, 30_000, step)
    assert found.value % step == 0
    assert size(found.value) == found.size
    assert abs(found.size - 30_000) <= abs(size(found.value + step) - 30_000)
    assert found.value == step or abs(found.size - 30_000) <= abs(size(found.value - step) - 30_000)
