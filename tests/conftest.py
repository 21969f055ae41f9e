"""Fixtures that every test may use."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
import torch
from filelock import FileLock
from hypothesis import settings

# Machines are shared: a test must not fail because it was slow for once.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept-golden", action="store_true", default=False, help="write the golden files, and docs/settings.md, anew")


SAMPLE_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Unpinned torch processes on few cores cost many times the CPU time of pinned ones."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of decoded data that the tests of one session share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """An empty folder and the address, ending in a slash, under which its files can be fetched."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Requests are no part of a test's output."""

    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """A folder that holds the real cifar-10-batches-py, unpacked once a machine; its MD5 sums are not the published ones."""
    if not (SAMPLE_DATA / "unpack.py").exists():
        pytest.skip(f"the sample data is not at {SAMPLE_DATA}: the real CIFAR-10 is NOT tested")
    root = platformdirs.user_cache_path("cvkan-tests", ensure_exists=True)
    with FileLock(root / "cifar10.lock"):
        subprocess.run([sys.executable, str(SAMPLE_DATA / "unpack.py"), str(root), "cifar10"], check=True, stdout=subprocess.DEVNULL)
    return root


@pytest.fixture(scope="session")
def sample_root() -> Path:
    """A folder that holds real text, series and speech in the layout of the loaders, unpacked once a machine."""
    if not (SAMPLE_DATA / "unpack.py").exists():
        pytest.skip(f"the sample data is not at {SAMPLE_DATA}: real text, series and speech are NOT tested")
    root = platformdirs.user_cache_path("cvkan-tests", ensure_exists=True)
    with FileLock(root / "sample.lock"):
        command = [sys.executable, str(SAMPLE_DATA / "unpack.py"), str(root), "text", "speech"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return root
