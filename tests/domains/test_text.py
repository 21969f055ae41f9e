"""Sentences and their classes: generated, of SST-2, and from a user's own file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cvkan.domains import grammar
from cvkan.domains.task import Data, Split
from cvkan.domains.text import TEXT, GrammarSettings, Sst2Settings, TsvSettings, tokens
from cvkan.errors import DataError
from cvkan.orchestrator.learner import Learner
from cvkan.orchestrator.spec import config_of


@pytest.fixture(scope="module")
def drawn(cache_dir: Path) -> Data:
    return TEXT.load(GrammarSettings(), cache_dir)


def rows(split: Split) -> list[tuple[int, ...]]:
    return [tuple(row) for row in split.x.tolist()]


def words(row: tuple[int, ...]) -> list[str]:
    return [grammar.WORDS[place - 2] for place in row if place >= 2]


def clause_is_good(clause: list[str]) -> bool:
    """One word of praise or blame, turned round by a negation."""
    praise = [word in grammar.GOOD + grammar.LIKED for word in clause if word in grammar.GOOD + grammar.BAD + grammar.LIKED + grammar.HATED]
    assert len(praise) == 1, clause
    return praise[0] != bool({"not", "never", "far", "nobody", "no"} & set(clause))


def is_good(sentence: list[str]) -> bool:
    """The sentiment as the rules of English have it."""
    body = [word for word in sentence if word not in ",.!"]
    concessions = {"although", "though", "while"}
    for place, word in enumerate(body):
        if word in {"but", "yet"}:
            assert clause_is_good(body[:place]) != clause_is_good(body[place + 1 :])
            return clause_is_good(body[place + 1 :])
        if word == "and":
            assert clause_is_good(body[:place]) == clause_is_good(body[place + 1 :])
            return clause_is_good(body[:place])
    if not concessions & set(body):
        return clause_is_good(body)
    at = next(place for place, word in enumerate(sentence) if word in concessions)
    before, after = sentence[:at], sentence[at + 1 :]
    if {*grammar.VERBS, *grammar.LIKED, *grammar.HATED} & set(before):
        return clause_is_good(before)
    return clause_is_good(after[after.index(",") :])


def test_generated_sentences_mean_what_they_are_labelled(drawn: Data) -> None:
    for split in (drawn.train, drawn.validation, drawn.test):
        assert [is_good(words(row)) for row in rows(split)] == [bool(good) for good in split.y.tolist()]


def test_generated_parts_are_balanced_and_share_no_sentence(drawn: Data) -> None:
    parts = [drawn.train, drawn.validation, drawn.test]
    assert [torch.bincount(part.y).tolist() for part in parts] == [[1500, 1500], [250, 250], [500, 500]]
    every = [row for part in parts for row in rows(part)]
    assert len(set(every)) == len(every)
    lengths = (drawn.train.x != 0).sum(1)
    assert lengths.min() < 8 and lengths.max() > 16
    assert {place for row in every for place in row} == {0, *range(2, drawn.task.vocabulary)}


def test_more_training_sentences_leave_the_other_parts_as_they_are(drawn: Data, tmp_path: Path) -> None:
    more = TEXT.load(GrammarSettings(n_train=3500), tmp_path)
    assert torch.equal(more.test.x, drawn.test.x) and torch.equal(more.validation.x, drawn.validation.x)
    assert torch.equal(more.train.x[:3000], drawn.train.x)
    assert TEXT.load(GrammarSettings(data_seed=1), tmp_path).hash != drawn.hash


def bag(x: Tensor, vocabulary: int) -> Tensor:
    """How often each word stands in each sentence (N, vocabulary)."""
    return torch.nn.functional.one_hot(x.long(), vocabulary).sum(1)[:, 2:]


def test_words_without_their_order_do_not_tell_the_sentiment(drawn: Data) -> None:
    from sklearn.linear_model import LogisticRegression

    train, test = (bag(part.x, drawn.task.vocabulary).numpy() for part in (drawn.train, drawn.test))
    model = LogisticRegression(C=0.1, max_iter=2000).fit(train, drawn.train.y.numpy())
    assert 0.55 < model.score(test, drawn.test.y.numpy()) < 0.75


def test_a_model_that_reads_in_order_tells_the_sentiment(drawn: Data) -> None:
    config = config_of(
        {
            "domain": "text",
            "data": {"name": "grammar"},
            "model": {"name": "gru", "d_hidden": 48, "n_layers": 1},
            "optimizer": {"name": "adamw", "lr": 0.01},
            "train": {"epochs": 3, "batch_size": 32},
            "loss": {},
        }
    )
    learner = Learner(config, [0], drawn, torch.device("cpu"))
    while not learner.done:
        learner.epoch()
    assert learner.test(learner.members[0])["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("It's NOT dull.", "it 's not dull ."),
        ("it 's a film we do n't like", "it 's a film we do n't like"),
        ("Don\u2019t, can't!", "do n't , ca n't !"),
        ("well-made 3-d -- 'caf\u00e9'", "well-made 3-d - - ' caf\u00e9 '"),
        ("\u6620\u753b \U0001f600", "\u6620\u753b \U0001f600"),
    ],
)
def test_tokens(sentence: str, expected: str) -> None:
    assert tokens(sentence) == expected.split()


def tsv(path: Path, table: list[tuple[str, str]], header: str = "sentence\tlabel") -> Path:
    path.write_text("\n".join([header, *("\t".join(row) for row in table)]) + "\n", encoding="utf-8")
    return path


def reviews(n: int) -> list[tuple[str, str]]:
    return [(f"a {'fine' if index % 2 else 'poor'} film number {index}", str(index % 2)) for index in range(n)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tiny SST-2: 200 training and 20 dev rows."""
    folder = tmp_path / "root" / "SST-2"
    folder.mkdir(parents=True)
    tsv(folder / "train.tsv", reviews(200))
    tsv(folder / "dev.tsv", [(f"{'fine' if index % 2 else 'poor'} unheard film", str(index % 2)) for index in range(20)])
    return tmp_path / "root"


def sst2(root: Path, **options: object) -> Data:
    return TEXT.load(Sst2Settings.model_validate({"root": str(root), **options}), root / "cache")


def test_dev_is_the_test_part_and_validation_is_held_out(root: Path) -> None:
    data = sst2(root)
    assert [torch.bincount(part.y).tolist() for part in (data.train, data.validation, data.test)] == [[95, 95], [5, 5], [10, 10]]
    assert data.test.y.tolist() == [0, 1] * 10
    assert torch.equal(sst2(root).train.x, data.train.x)
    assert not torch.equal(sst2(root, split_seed=1).validation.x, data.validation.x)


def test_the_vocabulary_is_that_of_the_training_part(root: Path) -> None:
    data = sst2(root)
    assert data.task.vocabulary == 10_000 and data.task.padding == 0
    assert data.train.x.shape == (190, 64)
    # a, film and number are in every row, fine and poor in each second one; what occurs once is unknown.
    assert data.train.x[:, :5].max() == 6
    assert (data.train.x[:, 4] == 1).all() and (data.train.x[:, 5:] == 0).all()
    fine, poor = set(data.train.x[data.train.y == 1][:, 1].tolist()), set(data.train.x[data.train.y == 0][:, 1].tolist())
    assert {len(fine), len(poor)} == {1} and fine != poor
    film = data.train.x[0, 2].item()
    assert data.test.x[1].tolist() == [*fine, 1, film, *[0] * 61]


def test_rare_words_are_unknown_and_long_sentences_cut(root: Path) -> None:
    data = sst2(root, vocabulary=5, length=3)
    assert data.task.vocabulary == 5 and data.train.x.shape == (190, 3) and data.train.x.max() == 3
    assert (data.train.x[:, 1] == 1).all()  # a, film and number, which is cut off, are more frequent
    lines = TEXT.check(Sst2Settings(root=str(root), vocabulary=5, length=3), root / "cache")
    assert any(line.startswith("train: 190 sentences: 0 95, 1 95; 190 cut to 3 tokens, 33.3%") for line in lines)
    assert sst2(root, min_count=1).train.x.max() > 6


def test_a_subset_keeps_the_classes_in_proportion_and_the_other_parts(root: Path) -> None:
    data, whole = sst2(root, n_train=40), sst2(root)
    assert torch.bincount(data.train.y).tolist() == [20, 20]
    assert torch.equal(data.validation.y, whole.validation.y) and len(data.test) == 20


def test_a_missing_sst2_says_where_it_comes_from(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/SST-2 not found; unpack https://.*SST-2\.zip there, or set data\.root"):
        sst2(tmp_path / "nowhere")
    (root / "SST-2" / "dev.tsv").unlink()
    with pytest.raises(DataError, match=r"dev\.tsv not found"):
        sst2(root)


def test_a_label_that_is_not_of_sst2_is_named(root: Path) -> None:
    tsv(root / "SST-2" / "train.tsv", [*reviews(40), ("what", "-1")])
    with pytest.raises(DataError, match=r"train\.tsv:42: label '-1'; 0 or 1 expected"):
        sst2(root)


def test_an_sst2_without_labels_names_no_setting_that_it_has_not(root: Path) -> None:
    tsv(root / "SST-2" / "dev.tsv", [("0", "a film")], header="index\tsentence")
    with pytest.raises(DataError, match=r"^[^:]*dev\.tsv has no column 'label'; .*download the data set again") as caught:
        sst2(root)
    assert "data.label" not in str(caught.value)


def test_the_real_sst2(sample_root: Path, cache_dir: Path) -> None:
    data = TEXT.load(Sst2Settings(root=str(sample_root), n_train=2000), cache_dir)
    assert [len(part) for part in (data.validation, data.test)] == [3367, 872]
    # A few of the 2,000 stand word for word in another part.
    assert 1980 <= len(data.train) < 2000
    train, *others = ({tuple(row) for row in part.x.tolist()} for part in (data.train, data.validation, data.test))
    # Ids of words outside the vocabulary are one, so different sentences may look alike; known ones do not.
    assert not {row for row in train & (others[0] | others[1]) if 1 not in row}
    assert torch.bincount(data.test.y).tolist() == [428, 444]
    assert (data.test.x == 1).sum() < 0.3 * (data.test.x != 0).sum()


COLOURS = [(f"it is {colour} {index}", colour) for index in range(30) for colour in ("red", "green", "deep blue")]


def own(path: Path, **options: object) -> Data:
    return TEXT.load(TsvSettings.model_validate({"file": str(path), **options}), path.parent / "cache")


def test_any_text_may_be_a_label(tmp_path: Path) -> None:
    path = tsv(tmp_path / "colours.tsv", [(colour, "x", sentence) for sentence, colour in COLOURS], "colour\tother\tquery")  # type: ignore[misc]
    data = own(path, text="query", label="colour")
    assert TEXT.task(TsvSettings(file=str(path), text="query", label="colour")) == data.task
    assert data.task.n_outputs == 3
    assert [len(part) for part in (data.train, data.validation, data.test)] == [77, 4, 9]
    assert torch.bincount(data.test.y).tolist() == [3, 3, 3]
    lines = TEXT.check(TsvSettings(file=str(path), text="query", label="colour"), tmp_path / "cache")
    assert any("deep blue 3, green 3, red 3" in line for line in lines)


def test_a_file_of_windows_reads_the_same(tmp_path: Path) -> None:
    path = tsv(tmp_path / "a.tsv", COLOURS)
    other = tmp_path / "b.tsv"
    other.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert own(path).hash == own(other).hash


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tsv(tmp_path / "a.tsv", COLOURS)
    assert own(path).task.n_outputs == 3
    tsv(path, reviews(100))
    assert own(path).task.n_outputs == 2 and TEXT.task(TsvSettings(file=str(path))).n_outputs == 2


LINE = b"sentence\tlabel\ngood\t1\nbad\t0\n"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "x.tsv is empty"),
        (b"sentence\tlabel\n", "x.tsv has a header and no sentence"),
        (LINE + b"no tab in this long line, which is shortened for the message\n", "x.tsv:4: 2 fields .* found: 'no tab in .*\\.\\.\\.'$"),
        (LINE + b"a\tb\t1\n", "x.tsv:4: 2 fields with tabs between them expected, as in line 1, but 3 found: 'a b 1'"),
        (LINE + b"\nfine\t1\n", "x.tsv:4: 2 fields .* but 1 found: ''"),
        (LINE + b"  \t1\n", "x.tsv:4: the sentence is empty"),
        (LINE + b"fine\t\n", "x.tsv:4: the label is empty"),
        (LINE + b"caf\xe9\t1\n", "x.tsv:4: no valid UTF-8 \\(byte 0xe9 after 'caf'\\)"),
        (b"sentence\tlabels\ngood\t1\n", "data.label: .*x.tsv has no column 'label'; did you mean labels?"),
        (b"review,stars\ngood,1\n", "data.text: .*x.tsv has no column 'sentence'; valid: 'review,stars' \\(line 1"),
        (LINE.replace(b"\n", b"\r"), "x.tsv:1: a line ends with CR alone; save the file with LF"),
        (b"\t".join([b"x" * 90] * 90), "data.text: .*valid: ('x{40}...', ){11}'x{40}...' and 78 more \\(line 1"),
        (b"sentence\tlabel\tlabel\ngood\t1\t0\n", "x.tsv:1: two columns are called 'label'; rename one of them"),
        (b"sentence\tlabel\n" + b"good\t1\n" * 9, "x.tsv: a single class: every label is '1'"),
        (b"sentence\tlabel\n" + b"good\t1\n" * 9 + b"bad\t0\n", "x.tsv:11: label '0' has 1 of the 3 sentences that every class needs"),
    ],
)
def test_a_wrong_file_is_named_in_one_line(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_bytes(raw)
    for attempt in (lambda: own(path), lambda: TEXT.task(TsvSettings(file=str(path)))):
        with pytest.raises(DataError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.tsv not found; set data\.file to a tsv file"):
        own(tmp_path / "nothing.tsv")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tsv")
    with pytest.raises(DataError, match=r"pipe\.tsv is no regular file"):
        own(tmp_path / "pipe.tsv")


def test_labels_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = tsv(tmp_path / "x.tsv", [(f"it is {index}", f"\x1b[3{index % 2}m") for index in range(60)])
    lines = TEXT.check(TsvSettings(file=str(path)), tmp_path / "cache")
    assert all(line.isprintable() for line in lines) and any(r"\x1b[30m" in line for line in lines)
