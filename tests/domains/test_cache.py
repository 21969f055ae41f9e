"""Entries of the cache of decoded data: whole or absent, whatever happens to the process that writes them."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cvkan.domains.cache import Writer, ensure, signature
from cvkan.errors import DataError

IDENTITY = {"source": "test"}
VALUES = np.arange(12, dtype=np.int64).reshape(6, 2)


def fill(writer: Writer) -> dict[str, Any]:
    writer.write("values", np.int64, (6, 2), [VALUES[:4], VALUES[4:]])
    return {"classes": ["a", "b"]}


def refuse(_: Writer) -> dict[str, Any]:
    raise AssertionError("decoded although the entry is there")


def visible(cache: Path) -> list[str]:
    """What lies in a cache apart from lock files."""
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def test_an_entry_is_decoded_once_and_read_back(tmp_path: Path) -> None:
    written = ensure(tmp_path, "x", IDENTITY, fill)
    read = ensure(tmp_path, "x", IDENTITY, refuse)
    assert read == written
    assert read.about == {"classes": ["a", "b"]}
    np.testing.assert_array_equal(read.array("values"), VALUES)
    assert read.damaged() == []


def test_memory_that_does_not_suffice_is_told_in_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    def large(writer: Writer) -> dict[str, Any]:
        writer.write("values", np.int8, (1, 1 << 60), [np.empty((1, 1 << 60), np.int8)])
        return {}

    with pytest.raises(DataError, match="x: does not fit into memory; ask for smaller examples, or fewer"):
        ensure(tmp_path, "x", IDENTITY, large)
    assert visible(tmp_path) == []


def test_the_hash_is_that_of_the_content_alone(tmp_path: Path) -> None:
    def in_one_piece(writer: Writer) -> dict[str, Any]:
        writer.write("values", np.int64, (6, 2), [VALUES])
        return {}

    def changed(writer: Writer) -> dict[str, Any]:
        writer.write("values", np.int64, (6, 2), [VALUES + 1])
        return {}

    hashes = [ensure(tmp_path, "x", {"source": index}, how).hash for index, how in enumerate((fill, in_one_piece, changed))]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


def test_another_identity_is_another_entry(tmp_path: Path) -> None:
    assert ensure(tmp_path, "x", {"a": 1}, fill).folder != ensure(tmp_path, "x", {"a": 2}, fill).folder


@pytest.mark.parametrize("damage", ["cut array", "no array", "cut meta", "no meta", "foreign meta"])
def test_a_damaged_entry_is_decoded_again(tmp_path: Path, damage: str) -> None:
    folder = ensure(tmp_path, "x", IDENTITY, fill).folder
    array, meta = folder / "values.npy", folder / "meta.json"
    match damage:
        case "cut array":
            array.write_bytes(array.read_bytes()[:-1])
        case "no array":
            array.unlink()
        case "cut meta":
            meta.write_text(meta.read_text()[:-20])
        case "no meta":
            meta.unlink()
        case "foreign meta":
            meta.write_text(json.dumps(["not", "ours"]))
    np.testing.assert_array_equal(ensure(tmp_path, "x", IDENTITY, fill).array("values"), VALUES)
    assert visible(tmp_path) == [folder.name]


def test_a_changed_byte_is_found_on_request(tmp_path: Path) -> None:
    entry = ensure(tmp_path, "x", IDENTITY, fill)
    path = entry.folder / "values.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert entry.damaged() == ["values"]


def test_writing_to_an_array_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    entry = ensure(tmp_path, "x", IDENTITY, fill)
    entry.array("values")[:] = 0
    assert entry.damaged() == []


def test_a_failing_decoder_leaves_nothing(tmp_path: Path) -> None:
    def fail(writer: Writer) -> dict[str, Any]:
        fill(writer)
        raise DataError("broken source")

    with pytest.raises(DataError, match="broken source"):
        ensure(tmp_path, "x", IDENTITY, fail)
    assert visible(tmp_path) == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path: Path) -> None:
    def large(writer: Writer) -> dict[str, Any]:
        writer.write("values", np.uint8, (64, 65536), (np.zeros((1, 65536), np.uint8) for _ in range(64)))
        return {}

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # writes fail beyond 1 MiB, as on a full disk
    try:
        with pytest.raises(DataError, match="free space or choose another cache folder") as caught:
            ensure(tmp_path, "x", IDENTITY, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(caught.value)
    assert visible(tmp_path) == []


def test_a_cache_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another cache folder"):
        ensure(tmp_path / "file" / "cache", "x", IDENTITY, fill)


def _killed(cache: Path) -> None:
    def pieces() -> Iterator[NDArray[np.int64]]:
        yield VALUES[:4]
        os.kill(os.getpid(), signal.SIGKILL)

    def killed_within(writer: Writer) -> dict[str, Any]:
        writer.write("values", np.int64, (6, 2), pieces())
        return {}

    ensure(cache, "x", IDENTITY, killed_within)


def test_what_a_killed_process_left_is_never_read_and_is_cleared_away(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert len(visible(tmp_path)) == 1
    entry = ensure(tmp_path, "x", IDENTITY, fill)
    assert visible(tmp_path) == [entry.folder.name]
    np.testing.assert_array_equal(entry.array("values"), VALUES)


def _counted(cache: Path, log: Path) -> None:
    def slow(writer: Writer) -> dict[str, Any]:
        with open(log, "a") as file:
            file.write("decoded\n")
        return fill(writer)

    np.testing.assert_array_equal(ensure(cache, "x", IDENTITY, slow).array("values"), VALUES)


def test_processes_that_ask_at_once_decode_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_counted, args=(tmp_path / "cache", tmp_path / "log")) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 6
    assert (tmp_path / "log").read_text() == "decoded\n"


def test_a_signature_changes_with_name_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    os.utime(path, (1, 1))
    first = signature(tmp_path, ["a"])
    assert signature(tmp_path, ["a"]) == first
    os.utime(path, (2, 2))
    assert signature(tmp_path, ["a"]) != first
    path.write_text("22")
    os.utime(path, (1, 1))
    assert signature(tmp_path, ["a"]) != first
