"""Signal and noise: phases that agree among phases that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from cvkan.domains import signal_noise
from cvkan.domains.signal_noise import SIGNAL_NOISE, CoherentSettings, chunk
from cvkan.domains.task import Split
from cvkan.orchestrator.learner import Learner
from cvkan.orchestrator.spec import config_of

SMALL = {"n_train": 1000, "n_validation": 60, "n_test": 600}


def parts(settings: CoherentSettings, cache_dir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Complex tokens (N, T, D) and which of them are signal (N, T), of the training part."""
    data = SIGNAL_NOISE.load(settings, cache_dir)
    return torch.view_as_complex(data.encode(data.train.x)), data.train.y == 1


def coherence(z: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """|mean| of the unit phases of the chosen tokens, in the mean over examples and dimensions."""
    unit = z / z.abs() * chosen.unsqueeze(-1)
    return (unit.sum(1) / chosen.sum(1, keepdim=True)).abs().mean()


def test_each_example_has_its_signal_tokens_at_places_of_its_own(cache_dir: Path) -> None:
    _, signal = parts(CoherentSettings(**SMALL), cache_dir)
    assert (signal.sum(1) == 4).all()
    assert (signal.float().mean(0) - 0.25).abs().max() < 0.06


def test_phases_of_signal_tokens_spread_as_asked_and_others_have_none(cache_dir: Path) -> None:
    z, signal = parts(CoherentSettings(**SMALL, tokens=200, signal=100), cache_dir)
    # Of n agreeing phases of deviation s, |mean| tends to e^(-s^2/2); of n random ones it is sqrt(pi/4n).
    assert abs(coherence(z, signal) - torch.tensor(-0.125).exp()) < 0.01
    assert coherence(z, ~signal) < 0.1


def test_directions_are_drawn_afresh_for_each_example_and_dimension(cache_dir: Path) -> None:
    z, signal = parts(CoherentSettings(**SMALL, phase_std=0.01), cache_dir)
    common = torch.stack([tokens[chosen].mean(0) for tokens, chosen in zip(z, signal, strict=True)])
    assert common.abs().min() > 0.99
    assert common.mean(0).abs().max() < 0.1
    correlations = (common[:, :, None] * common[:, None, :].conj()).mean(0).abs()
    assert (correlations - torch.eye(8) * correlations).max() < 0.12


def test_magnitudes_are_one_unless_noise_is_asked_for(cache_dir: Path) -> None:
    plain, _ = parts(CoherentSettings(**SMALL), cache_dir)
    torch.testing.assert_close(plain.abs(), torch.ones_like(plain.abs()))
    noisy, signal = parts(CoherentSettings(**SMALL, magnitude_std=0.3), cache_dir)
    assert abs(noisy.abs().log().std() - 0.3) < 0.01
    assert abs(noisy.abs().log()[signal].mean()) < 0.01, "magnitudes do not tell signal from noise"


def test_no_two_parts_or_seeds_share_an_example(cache_dir: Path) -> None:
    found: list[Split] = []
    hashes = set()
    for seed in (0, 1):
        data = SIGNAL_NOISE.load(CoherentSettings(**SMALL, data_seed=seed), cache_dir)
        found += [data.train, data.validation, data.test]
        hashes.add(data.hash)
    rows = torch.cat([part.x.flatten(1) for part in found])
    assert len(rows.unique(dim=0)) == len(rows) == 2 * 1660
    assert len(hashes) == 2


def test_a_larger_part_begins_with_the_smaller_one(cache_dir: Path) -> None:
    small, large = (SIGNAL_NOISE.load(CoherentSettings(**{**SMALL, "n_train": n}), cache_dir) for n in (700, 900))
    assert torch.equal(small.train.x, large.train.x[:700]) and torch.equal(small.train.y, large.train.y[:700])
    assert torch.equal(small.test.x, large.test.x)


def test_large_examples_are_drawn_few_at_once_and_a_larger_part_still_begins_with_the_smaller_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chunk(CoherentSettings()) == 512 and chunk(CoherentSettings(tokens=4096, dims=4096)) == 1
    monkeypatch.setattr(signal_noise, "MOST", 4 * 16 * 8)
    small, large = (SIGNAL_NOISE.load(CoherentSettings(**{**SMALL, "n_train": n}), tmp_path).train for n in (3, 5))
    assert torch.equal(small.x, large.x[:3]) and torch.equal(small.y, large.y[:3])


def test_check_says_what_one_answer_to_all_is_worth(cache_dir: Path) -> None:
    lines = SIGNAL_NOISE.check(CoherentSettings(**SMALL), cache_dir)
    assert "test: 600 examples of 16 tokens, 4 of them signal" in lines
    assert lines[-1] == "accuracy of one answer to all: 0.75"


def test_all_tokens_cannot_be_signal() -> None:
    with pytest.raises(ValidationError, match="signal 16 leaves no other token; tokens is 16"):
        CoherentSettings(signal=16)


def accuracy(cache_dir: Path, model: dict[str, Any]) -> float:
    """Test accuracy of a CV-KAN after 372 steps, seed 0."""
    config = config_of({
        "domain": "signal_noise",
        "data": {"name": "coherent"},
        "model": {"name": "cv_kan", "d_complex": 16, "n_layers": 2, "positions": "none", **model},
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "train": {"epochs": 6, "eval_every": 6},
    })  # fmt: skip
    learner = Learner(config, [0], SIGNAL_NOISE.load(config.data, cache_dir), torch.device("cpu"))
    (member,) = learner.members
    while not learner.done:
        learner.epoch()
    return learner.test(member)["test_accuracy"]


def test_phases_of_the_others_tell_signal_where_their_mean_does_not(cache_dir: Path) -> None:
    """The mean of all tokens is mostly noise: comparing tokens with it alone, in the best way, is right for 91%."""
    assert accuracy(cache_dir, {"block": "phase_attention"}) > 0.98
    assert 0.8 < accuracy(cache_dir, {"interaction": "broadcast"}) < 0.93
