"""The text domain: name the class of a sentence from its words; headline metric accuracy.

Sentences are lower-cased and cut into tokens by TOKEN. Of the tokens of the training part the most frequent get the ids from 2 on, by
how often they occur, then by alphabet; id 1 stands for all others, id 0 fills up a sentence at its end. Longer sentences are cut.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from cvkan.domains import grammar
from cvkan.domains.cache import Entry, Writer, signature
from cvkan.domains.cached import PARTS, CachedDomain, DataSet, DataSettings, GeneratedSettings, StoredSettings, splits
from cvkan.domains.paths import check_regular, expanded, listed, shortened
from cvkan.domains.splits import parts
from cvkan.domains.task import Data, Task
from cvkan.errors import DataError, Problem, nearest

TOKEN = re.compile(r"n't\b|'(?:s|m|d|re|ve|ll)\b|\w+?(?=n't\b)|\w+(?:-\w+)*|[^\w\s]")
"""A token: a word, with its hyphens; an English ending ('s, n't, ...) by itself, as SST-2 writes it; any other single sign."""
PADDING, UNKNOWN, FIRST = 0, 1, 2
"""Ids that stand for no word, and the id of the first word."""
FEWEST = 3
"""Sentences that a class must have: one for each part."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=0.5)]


class GrammarSettings(GeneratedSettings):
    """Generated sentences about films whose sentiment hangs on negation and contrast: their words without order tell almost nothing."""

    synonyms: ClassVar[Mapping[str, str]] = {"seed": "data_seed", "size": "n_train"}

    name: Literal["grammar"] = "grammar"
    n_train: Annotated[int, Field(ge=2, le=100_000)] = 3000
    """Sentences of the training part, half of them good; the other parts stay as they are."""
    n_validation: Annotated[int, Field(ge=2, le=100_000)] = 500
    """Sentences of the validation part."""
    n_test: Annotated[int, Field(ge=2, le=100_000)] = 1000
    """Sentences of the test part; no sentence is in two parts."""


class SentenceSettings(DataSettings):
    """Settings of every data set of written sentences."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "vocab": "vocabulary", "vocab_size": "vocabulary", "max_length": "length", "seq_len": "length", "min_freq": "min_count",
        "seed": "split_seed", "val": "validation",
    }  # fmt: skip

    length: Annotated[int, Field(ge=1, le=4096)] = 64
    """Tokens of a sentence; longer ones are cut, shorter ones filled up at their end."""
    vocabulary: Annotated[int, Field(ge=FIRST + 1, le=1 << 24)] = 10_000
    """Ids, of padding and unknown words too: the most frequent words get one. A model's table has that size even where there are fewer."""
    min_count: Count = 2
    """Words that occur less often in the training part are unknown words."""
    n_train: Count | None = None
    """Size of a class-balanced subset of the training part; all of it without."""
    n_validation: Count | None = None
    """The same of the validation part."""
    n_test: Count | None = None
    """The same of the test part."""
    validation: Share = 0.05
    """Fraction of the sentences outside the test part that is held out for validation."""
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of splits and subsets, apart from the trial's seed."""


class Sst2Settings(SentenceSettings, StoredSettings):
    """Phrases of film reviews, good or bad (Socher et al. 2013, in GLUE): ROOT/SST-2/train.tsv, and dev.tsv as the test part.

    Most training rows are parts of sentences that other rows hold whole, so the validation part, held out of them, looks easier than
    the test part. GLUE publishes no labels of its own test.tsv.
    """

    synonyms: ClassVar[Mapping[str, str]] = {**SentenceSettings.synonyms, **StoredSettings.synonyms}

    name: Literal["sst2"] = "sst2"


class TsvSettings(SentenceSettings):
    """A file of your own: a header, then a sentence and its label in each line, a tab between them; needs `file`."""

    outside_key: ClassVar[frozenset[str]] = SentenceSettings.outside_key | {"file"}
    synonyms: ClassVar[Mapping[str, str]] = {**SentenceSettings.synonyms, "path": "file", "filename": "file", "sentence": "text"}

    name: Literal["tsv"] = "tsv"
    file: str
    """The file, in UTF-8. Quotation marks mean nothing; there may be further columns."""
    text: str = "sentence"
    """The column of the sentences."""
    label: str = "label"
    """The column of the labels; each that occurs is a class."""
    test: Share = 0.1
    """Fraction of the sentences that is held out for the test part."""

    def path(self) -> Path:
        """`file` as a path, with a leading ~ replaced by the home folder. Raises DataError where it can be none."""
        return expanded(self.file, "data.file")


def tokens(sentence: str) -> list[str]:
    """The tokens of a sentence, lower-cased; see TOKEN."""
    return TOKEN.findall(sentence.lower().replace("\u2019", "'"))


@dataclass(frozen=True)
class Table:
    """Two columns of a tsv file, row by row."""

    path: Path
    sentences: Sequence[str]
    labels: Sequence[str]
    lines: Sequence[int]
    """Where the rows stand, from 1."""

    def classes(self) -> list[str]:
        """The labels that occur, sorted. Raises DataError where there is one only, or too few sentences have it to be in every part."""
        counts = Counter(self.labels)
        if len(counts) == 1:
            raise DataError(f"{self.path}: a single class: every label is {shortened(self.labels[0])}; at least two are needed")
        for label, count in counts.items():
            if count < FEWEST:
                where = f"{self.path}:{self.lines[self.labels.index(label)]}"
                raise DataError(f"{where}: label {shortened(label)} has {count} of the {FEWEST} sentences that every class needs")
        return sorted(counts)


def read_table(path: Path, text: str, label: str, settable: bool) -> Table:
    """The columns of a tsv file that are so named; `settable`: by data.text and data.label.

    Raises DataError, naming line and content, where it is not well-formed.
    """
    raw = _content(path).removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").split(b"\n")
    if raw == [b""]:
        raise DataError(f"{path} is empty")
    header = _header(path, raw[0], {"data.text": text, "data.label": label}, settable)
    sentences, labels = [], []
    for line, content in enumerate(raw[1:], start=2):
        fields = _fields(path, line, content)
        if len(fields) != len(header):
            expected = f"{len(header)} fields with tabs between them expected, as in line 1"
            raise DataError(f"{path}:{line}: {expected}, but {len(fields)} found: {shortened(' '.join(fields))}")
        sentence, of = fields[header.index(text)].strip(), fields[header.index(label)].strip()
        if not sentence or not of:
            raise DataError(f"{path}:{line}: the {'label' if sentence else 'sentence'} is empty")
        sentences.append(sentence)
        labels.append(of)
    if not sentences:
        raise DataError(f"{path} has a header and no sentence")
    return Table(path, sentences, labels, range(2, len(raw) + 1))


def _header(path: Path, content: bytes, asked: Mapping[str, str], settable: bool) -> list[str]:
    """The names of the columns. DataError where one that is asked for, by setting, is missing, or one stands there twice."""
    if b"\r" in content.removesuffix(b"\r"):
        raise DataError(f"{path}:1: a line ends with CR alone; save the file with LF or CR LF at the ends of lines")
    header = _fields(path, 1, content)
    for setting, name in asked.items():
        if name not in header:
            found = nearest(name, header)
            hint = f"did you mean {found}?" if found else f"valid: {listed(header)}"
            if not settable:
                hint += "; download the data set again"
            text = f"{path} has no column {name!r}; {hint} (line 1 names the columns, with a tab between them)"
            raise DataError(Problem("", setting if settable else "", text))
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}:1: two columns are called {shortened(twice)}; rename one of them")
    return header


def _content(path: Path) -> bytes:
    try:
        check_regular(path)
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _fields(path: Path, line: int, content: bytes) -> list[str]:
    try:
        return content.decode("utf-8").rstrip("\r").split("\t")
    except UnicodeDecodeError as error:
        bad = f"byte 0x{content[error.start]:02x} after {shortened(content[: error.start].decode('utf-8'))}"
        raise DataError(f"{path}:{line}: no valid UTF-8 ({bad}); convert the file to UTF-8") from error


def _sentence_task(settings: SentenceSettings, n_classes: int) -> Task:
    return Task(
        input="tokens",
        shape=(settings.length,),
        output="classes",
        n_outputs=n_classes,
        vocabulary=settings.vocabulary,
        padding=PADDING,
    )


def numbered(sentences: Sequence[Sequence[str]], settings: SentenceSettings) -> dict[str, int]:
    """The id of each known word of the training part's sentences; see the head of this file."""
    counts = Counter(word for sentence in sentences for word in sentence)
    ranked = sorted((-count, word) for word, count in counts.items() if count >= settings.min_count)
    return {word: place for place, (_, word) in enumerate(ranked[: settings.vocabulary - FIRST], start=FIRST)}


def _ids(sentences: Sequence[Sequence[str]], known: Mapping[str, int], length: int) -> NDArray[np.int32]:
    ids = np.full((len(sentences), length), PADDING, dtype=np.int32)
    for row, sentence in enumerate(sentences):
        found = [known.get(word, UNKNOWN) for word in sentence[:length]]
        ids[row, : len(found)] = found
    return ids


def _write_sentences(
    settings: SentenceSettings, writer: Writer, tables: Sequence[Table], classes: list[str], test: float
) -> dict[str, Any]:
    """Writes the sentences of the tables; a second table is the test part, else it is the fraction `test`.

    What stands word for word in the validation or test part is left out of the training part.
    """
    sentences = [tokens(sentence) for table in tables for sentence in table.sentences]
    number = {label: place for place, label in enumerate(classes)}
    labels = np.array([number[label] for table in tables for label in table.labels], dtype=np.int64)
    official = np.arange(len(tables[0].labels), len(labels)) if len(tables) > 1 else None
    sizes = {"train": settings.n_train, "validation": settings.n_validation, "test": settings.n_test}
    chosen = parts(labels, official, test, settings.validation, sizes, settings.split_seed)
    held_out = {tuple(sentences[index]) for part in PARTS[1:] for index in chosen[part]}
    whole = chosen["train"]
    chosen = {**chosen, "train": np.array([index for index in whole if tuple(sentences[index]) not in held_out], dtype=np.int64)}
    by_part = {part: [sentences[index] for index in indices] for part, indices in chosen.items()}
    known = numbered(by_part["train"], settings)
    cut, unknown = {}, {}
    for part, of_part in by_part.items():
        ids = _ids(of_part, known, settings.length)
        writer.write(f"{part}_x", np.int32, ids.shape, [ids])
        writer.write(f"{part}_y", np.int64, (len(ids),), [labels[chosen[part]]])
        cut[part] = sum(len(sentence) > settings.length for sentence in of_part)
        unknown[part] = float((ids == UNKNOWN).sum() / (ids != PADDING).sum())
    repeated = len(whole) - len(chosen["train"])
    return {"classes": classes, "words": list(known), "cut": cut, "unknown": unknown, "repeated": repeated}


def _describe_sentences(settings: SentenceSettings, entry: Entry) -> list[str]:
    about = entry.about
    lines = [f"{len(about['words'])} known words, of at most {settings.vocabulary - FIRST}: {' '.join(about['words'][:12])} ..."]
    if about["repeated"]:
        lines.append(f"{about['repeated']} sentences left out of the training part: they stand in another part too")
    for part, size in _sizes(entry, about["classes"]).items():
        lines.append(f"{size}; {about['cut'][part]} cut to {settings.length} tokens, {about['unknown'][part]:.1%} of the words unknown")
    return lines


def _sizes(entry: Entry, classes: list[str]) -> dict[str, str]:
    """Each part's size, and that of every class."""
    sizes = {}
    for part in PARTS:
        counts = np.bincount(entry.array(f"{part}_y"), minlength=len(classes))
        per_class = ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
        sizes[part] = f"{part}: {counts.sum()} sentences: {per_class}"
    return sizes


def _opened(task: Callable[[Any, Entry], Task]) -> Callable[[Any, Entry], Data]:
    return lambda settings, entry: Data(task(settings, entry), *splits(entry), entry.hash, encode=Tensor.long)


SST2_FILES = ("train.tsv", "dev.tsv")
SST2_CLASSES = ["0", "1"]
"""Bad and good."""


def _sst2_signature(settings: Sst2Settings) -> dict[str, Any]:
    folder = settings.root_folder() / "SST-2"
    try:
        return signature(folder, SST2_FILES)
    except OSError as error:
        hint = "unpack https://dl.fbaipublicfiles.com/glue/data/SST-2.zip there, or set data.root"
        raise DataError(f"{error.filename if folder.exists() else folder} not found; {hint}") from error


def _sst2_write(settings: Sst2Settings, writer: Writer) -> dict[str, Any]:
    tables = [read_table(settings.root_folder() / "SST-2" / name, "sentence", "label", settable=False) for name in SST2_FILES]
    for table in tables:
        strange = next((place for place, label in enumerate(table.labels) if label not in SST2_CLASSES), None)
        if strange is not None:
            raise DataError(f"{table.path}:{table.lines[strange]}: label {shortened(table.labels[strange])}; 0 or 1 expected")
        table.classes()
    return _write_sentences(settings, writer, tables, SST2_CLASSES, 0.0)


def _tsv_signature(settings: TsvSettings) -> dict[str, Any]:
    path = settings.path()
    try:
        return signature(path.parent, [path.name])
    except OSError as error:
        raise DataError(f"{path} not found; set data.file to a tsv file") from error


def _tsv_table(settings: TsvSettings) -> Table:
    return read_table(settings.path(), settings.text, settings.label, settable=True)


@lru_cache(maxsize=64)
def _classes_of(signed: str, path: Path, text: str, label: str) -> list[str]:
    """The classes of a file, read once for as long as its signature, as text in `signed`, stays."""
    return read_table(path, text, label, settable=True).classes()


def _tsv_task(settings: TsvSettings) -> Task:
    signed = str(_tsv_signature(settings))
    return _sentence_task(settings, len(_classes_of(signed, settings.path(), settings.text, settings.label)))


def _tsv_write(settings: TsvSettings, writer: Writer) -> dict[str, Any]:
    table = _tsv_table(settings)
    return _write_sentences(settings, writer, [table], table.classes(), settings.test)


def _grammar_task(_: GrammarSettings) -> Task:
    return Task(
        input="tokens",
        shape=(grammar.LENGTH,),
        output="classes",
        n_outputs=2,
        vocabulary=FIRST + len(grammar.WORDS),
        padding=PADDING,
    )


def _grammar_signature(_: GrammarSettings) -> dict[str, Any]:
    """The words and some sentences: other ones from every other version of the grammar."""
    sample = repr((grammar.LENGTH, grammar.WORDS, grammar.drawn(Random(0), [300])))
    return {"sample": hashlib.sha256(sample.encode()).hexdigest()}


def _grammar_write(settings: GrammarSettings, writer: Writer) -> dict[str, Any]:
    sizes = {"test": settings.n_test, "validation": settings.n_validation, "train": settings.n_train}
    known = {word: place for place, word in enumerate(grammar.WORDS, start=FIRST)}
    drawn = grammar.drawn(Random(settings.data_seed), list(sizes.values()))
    for part, sentences in zip(sizes, drawn, strict=True):
        ids = _ids([words for words, _ in sentences], known, grammar.LENGTH)
        writer.write(f"{part}_x", np.int32, ids.shape, [ids])
        writer.write(f"{part}_y", np.int64, (len(ids),), [np.array([good for _, good in sentences], dtype=np.int64)])
    return {"classes": ["bad", "good"]}


def _grammar_describe(_: GrammarSettings, entry: Entry) -> list[str]:
    words = [[grammar.WORDS[place - FIRST] for place in row if place >= FIRST] for row in entry.array("train_x")[:4].tolist()]
    examples = [
        f"{entry.about['classes'][good]}: {' '.join(row)}" for good, row in zip(entry.array("train_y")[:4].tolist(), words, strict=True)
    ]
    return [f"{len(grammar.WORDS)} words", *_sizes(entry, entry.about["classes"]).values(), *examples]


TEXT = CachedDomain(
    "text",
    {
        "grammar": DataSet(
            Settings=GrammarSettings,
            task=_grammar_task,
            signature=_grammar_signature,
            write=_grammar_write,
            open=_opened(lambda settings, _: _grammar_task(settings)),
            describe=_grammar_describe,
            embedded=True,
        ),
        "sst2": DataSet(
            Settings=Sst2Settings,
            task=lambda settings: _sentence_task(settings, len(SST2_CLASSES)),
            signature=_sst2_signature,
            write=_sst2_write,
            open=_opened(lambda settings, _: _sentence_task(settings, len(SST2_CLASSES))),
            describe=_describe_sentences,
            folder="SST-2",
        ),
        "tsv": DataSet(
            Settings=TsvSettings,
            task=_tsv_task,
            signature=_tsv_signature,
            write=_tsv_write,
            open=_opened(lambda settings, entry: _sentence_task(settings, len(entry.about["classes"]))),
            describe=_describe_sentences,
        ),
    },
)
