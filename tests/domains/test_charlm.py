"""Texts as bytes: how they are cut, what is scored, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cvkan.domains.charlm import (
    CHARLM,
    CharSettings,
    Enwik8Settings,
    FileSettings,
    PydocSettings,
    Text8Settings,
    TinyShakespeareSettings,
    pydoc_text,
    sliding,
    windows,
)
from cvkan.domains.objectives import OBJECTIVES, UNASKED, figures
from cvkan.domains.task import Data, Split
from cvkan.errors import DataError
from cvkan.orchestrator.learner import Learner
from cvkan.orchestrator.spec import config_of

RANDOM = np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8).tobytes()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file of 4,000 random bytes: train 3,600, validation 200, test 200."""
    path = tmp_path / "text"
    path.write_bytes(RANDOM)
    return path


def load(path: Path, **options: object) -> Data:
    return CHARLM.load(FileSettings.model_validate({"file": str(path), "length": 32, **options}), path.parent / "cache")


def content(values: Tensor) -> bytes:
    return values.contiguous().numpy().tobytes()


def follows(split: Split) -> bool:
    """Whether the target of each byte is the one after it."""
    return torch.equal(split.x[:, 1:].long(), split.y[:, :-1].long())


def test_parts_follow_each_other_in_the_text(text: Path) -> None:
    data = load(text)
    assert content(data.train.x) == RANDOM[: 3599 // 32 * 32]
    assert content(data.train.y) == RANDOM[1 : 3599 // 32 * 32 + 1]
    assert content(data.validation.x) == RANDOM[3600 : 3600 + 192]
    assert content(data.test.y) == RANDOM[3801 : 3801 + 192]


def test_sequences_share_the_stored_bytes(text: Path) -> None:
    train = load(text).train
    assert train.y.data_ptr() == train.x.data_ptr() + 1
    assert train.x.untyped_storage().nbytes() == 4000


def test_models_get_ids(text: Path) -> None:
    data = load(text)
    x = data.encode(data.train.x[:2])
    assert x.dtype == torch.int64 and x.shape == (2, *data.task.shape)
    assert (data.task.vocabulary, data.task.n_outputs, data.task.causal) == (256, 256, True)


@given(length=st.integers(2, 40), extra=st.integers(1, 300))
def test_sliding_windows_ask_once_for_every_byte_after_half_a_window(length: int, extra: int) -> None:
    part = torch.arange(length + extra, dtype=torch.int16)
    split = sliding(part, length, None)
    assert split.x.shape == split.y.shape and split.x.shape[1] == length
    asked = split.y >= 0
    assert split.y[asked].tolist() == list(range(length - length // 2 + 1, length + extra))
    assert torch.equal(split.y[asked], split.x[asked] + 1)
    assert (split.y[~asked] == UNASKED).all()
    assert asked.long().argmax(1).min() >= length - length // 2  # what is seen before a byte that is asked for


@given(length=st.integers(2, 40), extra=st.integers(1, 300))
def test_windows_leave_out_less_than_one_sequence(length: int, extra: int) -> None:
    part = torch.arange(length + extra)
    split = windows(part, length, None)
    assert split.y.flatten().tolist() == list(range(1, split.y.numel() + 1))
    assert len(part) - 1 - split.y.numel() < length


def test_a_number_of_sequences_is_spread_over_the_part(text: Path) -> None:
    data = load(text, n_train=4, n_test=2, test_lengths=[64, 16])
    assert content(data.train.x) == b"".join(RANDOM[start * 32 : start * 32 + 32] for start in (0, 28, 56, 84))
    assert follows(data.train)
    assert {name: tuple(split.x.shape) for name, split in data.further.items()} == {"sliding": (4, 32), "at_64": (1, 64), "at_16": (4, 16)}


def test_test_lengths_are_further_parts(text: Path) -> None:
    data = load(text, test_lengths=[64, 16])
    assert data.task.further == tuple(data.further) == ("sliding", "at_64", "at_16")
    assert (data.task.shape, data.task.length) == ((32,), 64)
    for length in (64, 16):
        assert content(data.further[f"at_{length}"].x) == RANDOM[3800 : 3800 + 199 // length * length]
    assert {"test_bpc_sliding", "test_bpc_at_64"} <= set(figures(OBJECTIVES["next_token"].metrics, data.task.further))


def test_only_the_text_is_stored_whatever_the_cut(text: Path) -> None:
    first = load(text)
    assert load(text, length=64, n_train=3, validation=0.1, test_lengths=[16]).hash == first.hash
    assert len([entry for entry in (text.parent / "cache").iterdir() if entry.suffix != ".lock"]) == 1


def test_a_prefix_is_the_same_data_as_a_file_that_ends_there(text: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(RANDOM[:2000])
    assert load(text, prefix=2000).hash == load(short).hash != load(text).hash
    assert content(load(text, prefix=2000).test.x) == RANDOM[1900 : 1900 + 96]


def test_a_changed_file_is_read_again(text: Path) -> None:
    before = load(text).hash
    text.write_bytes(RANDOM[::-1])
    assert load(text).hash != before


def test_pydoc_needs_no_files(cache_dir: Path) -> None:
    data = CHARLM.load(PydocSettings(), cache_dir)
    topics = pydoc_text()
    assert b"assert" in topics and len(topics) > 300_000
    assert content(data.train.x[0]) == topics[:256]
    assert follows(data.train) and follows(data.test)
    lines = CHARLM.check(PydocSettings(), cache_dir)
    assert f"{len(topics)} bytes" in lines[1] and lines[2].startswith("train: ")


def test_bits_per_byte_are_known_where_the_text_is(tmp_path: Path) -> None:
    """Of a text in which each byte tells the next one, almost nothing is left to be told, however it is cut."""
    path = tmp_path / "text"
    path.write_bytes(bytes([97, 98, 99, 10]) * 3000)
    model = {"name": "transformer", "d_model": 16, "n_layers": 1, "positions": "none"}
    config = config_of(
        {
            "domain": "charlm",
            "data": {"name": "file", "file": str(path), "length": 7, "test_lengths": [21], "n_train": 960},
            "model": model,
            "optimizer": {"name": "adamw", "lr": 0.01},
            "train": {"epochs": 3, "batch_size": 32},
            "loss": {},
        }
    )
    learner = Learner(config, [0], CHARLM.load(config.data, tmp_path / "cache"), torch.device("cpu"))
    first = learner.advance(learner.members[0])
    assert next(point.value for point in first if (point.split, point.metric) == ("val", "bpc")) < 8
    while not learner.done:
        learner.epoch()
    found = learner.test(learner.members[0])
    assert found["test_bpc"] < 0.3 and found["test_bpc_sliding"] < 0.3 and found["test_bpc_at_21"] < 0.3
    assert found["test_accuracy_sliding"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 200}, "data.length: 200 needs 201 bytes a part, but the validation part has 200 of the text's 4000"),
        ({"test_lengths": [64, 300]}, "data.test_lengths: 300 needs 301 bytes a part, but the test part has 200 of the text's 4000"),
        ({"prefix": 5000}, "data.prefix: 5000 bytes asked, but .*text has 4000"),
        ({"n_train": 113}, "data.n_train: 113 asked, but the train part has 112 sequences of 32"),
    ],
)
def test_what_the_text_cannot_give_is_said(text: Path, options: dict[str, object], message: str) -> None:
    load(text)  # stored already: the mistake is found all the same
    with pytest.raises(DataError, match=message) as caught:
        load(text, **options)
    assert "\n" not in str(caught.value)


def test_a_text_that_is_too_short_is_refused_before_it_is_stored(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"hello")
    with pytest.raises(DataError, match="32 needs 33 bytes a part, but the train part has 5 of the text's 5"):
        CHARLM.prepare(FileSettings(file=str(tmp_path / "short"), length=32), tmp_path / "cache")


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="empty is empty"):
        load(tmp_path / "empty")


@pytest.mark.parametrize(
    ("settings", "missing", "hint"),
    [
        (TinyShakespeareSettings, "charlm/tinyshakespeare.txt", "karpathy/char-rnn/.*"),
        (Enwik8Settings, "charlm/enwik8", "enwik8.zip"),
        (Text8Settings, "charlm/text8", "text8.zip"),
    ],
)
def test_a_missing_text_says_where_it_comes_from(
    tmp_path: Path, settings: type[TinyShakespeareSettings] | type[Enwik8Settings] | type[Text8Settings], missing: str, hint: str
) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/{missing} not found; .*{hint} there, or set data.root"):
        CHARLM.load(settings(root=str(tmp_path)), tmp_path / "cache")


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no file; set data\.file"):
        load(tmp_path)


def test_lengths_stand_once() -> None:
    with pytest.raises(ValueError, match="expected lengths that differ"):
        CharSettings(name="file", test_lengths=[64, 64])


def test_the_short_enwik8_serves_where_the_whole_is_not_there(sample_root: Path, tmp_path: Path) -> None:
    data = CHARLM.load(Enwik8Settings(root=str(sample_root), prefix=100_000), tmp_path)
    assert content(data.train.x[0]).startswith(b"<mediawiki xmlns=")
    (tmp_path / "charlm").mkdir()
    start = (sample_root / "charlm" / "enwik8_10M").read_bytes()[:100_000]
    (tmp_path / "charlm" / "enwik8").write_bytes(start)
    assert CHARLM.load(Enwik8Settings(root=str(tmp_path)), tmp_path).hash == data.hash


def test_the_real_tinyshakespeare(sample_root: Path, tmp_path: Path) -> None:
    data = CHARLM.load(TinyShakespeareSettings(root=str(sample_root)), tmp_path)
    assert content(data.train.x[0]).startswith(b"First Citizen:")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [3921, 217, 217]
