"""Fetches CIFAR and MNIST: torchvision's addresses and MD5 sums; unpacked beside their place, then renamed."""

from __future__ import annotations

import gzip
import http.client
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from cvkan.domains import cifar, mnist
from cvkan.domains.image_set import ImageSettings
from cvkan.errors import DataError


def fetch_cifar(layout: cifar.Layout, settings: ImageSettings) -> None:
    """Makes the folder under `settings.root`, unless it is there. Raises DataError."""
    from torchvision import datasets

    source = {"CIFAR10": datasets.CIFAR10, "CIFAR100": datasets.CIFAR100}[layout.torchvision]

    def unpack(archive: Path, partial: Path) -> None:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")

    if not (settings.root_folder() / layout.folder).exists():
        _fetch(settings.root_folder(), layout.folder, [source.url], source.tgz_md5, unpack)


def fetch_mnist(layout: mnist.Layout, settings: ImageSettings) -> None:
    """Makes the files under `settings.root` that are not there. Raises DataError."""
    from torchvision import datasets

    source = {"MNIST": datasets.MNIST, "FashionMNIST": datasets.FashionMNIST}[layout.torchvision]
    for archive_name, md5 in source.resources:
        target = f"{layout.folder}/{archive_name.removesuffix('.gz')}"

        def unpack(archive: Path, partial: Path, target: str = target) -> None:
            (partial / target).parent.mkdir(parents=True)
            with gzip.open(archive) as packed, open(partial / target, "xb") as file:
                shutil.copyfileobj(packed, file)

        if not (settings.root_folder() / target).exists():
            _fetch(settings.root_folder(), target, [mirror + archive_name for mirror in source.mirrors], md5, unpack)


def _fetch(root: Path, target: str, urls: list[str], md5: str, unpack: Callable[[Path, Path], None]) -> None:
    """Makes root/target from the first of the `urls` that answers; `unpack` makes it in a folder of its own from the archive."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"), tempfile.TemporaryDirectory(prefix=".download-", dir=root) as scratch:
            if (root / target).exists():  # another process was faster
                return
            unpack(_download(urls, Path(scratch), md5), Path(scratch) / "unpacked")
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / "unpacked" / target).rename(root / target)
    except (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError) as error:
        raise DataError(
            f"{root / target}: download from {urls[0]} failed ({error}); put the data there by hand, or set data.root"
        ) from error


def _download(urls: list[str], folder: Path, md5: str) -> Path:
    from torchvision.datasets.utils import download_url

    for url in urls[:-1]:
        try:
            download_url(url, folder, "archive", md5)
            return folder / "archive"
        except (OSError, RuntimeError, http.client.HTTPException):  # the next mirror may answer
            (folder / "archive").unlink(missing_ok=True)
    download_url(urls[-1], folder, "archive", md5)
    return folder / "archive"
