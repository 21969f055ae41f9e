"""What `cvkan doctor` tells: versions, devices, data at hand, and whether results can be written."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cvkan

PACKAGES = ("torch", "torchvision", "torchaudio", "ray", "pytorch-optimizer", "pyarrow", "pydantic", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Check:
    """One line of the doctor: what was looked at, what was seen, and whether that is well."""

    name: str
    seen: str
    well: bool = True


def examine(data_root: Path, results: Path, cache: Path) -> list[Check]:
    """All checks, the quick ones first."""
    checks = [Check("cvkan", cvkan.__version__), Check("python", platform.python_version())]
    checks += [_package(name) for name in PACKAGES]
    checks += [_other_cvkan(), _torch_set(), _devices(), _dashboard()]
    checks += [_writable("results", results), _writable("cache", cache)]
    return checks + _data(data_root)


def _package(name: str) -> Check:
    try:
        return Check(name, version(name))
    except PackageNotFoundError:
        return Check(name, "not installed", well=name == "ray")


def _other_cvkan() -> Check:
    try:
        return Check("cvkan on PyPI", f"{version('cvkan')} is another project and is installed too: uninstall it", well=False)
    except PackageNotFoundError:
        return Check("name clash", "none")


def _torch_set() -> Check:
    try:
        import torchaudio
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        return Check("torch set", f"torch, torchvision and torchaudio do not import together: {error}", well=False)
    return Check("torch set", f"torchvision {torchvision.__version__} and torchaudio {torchaudio.__version__} import beside torch")


def _devices() -> Check:
    import torch

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("devices", f"{cpus} CPU cores, {', '.join(gpus) if gpus else 'no GPU'}")


def _dashboard() -> Check:
    try:
        version("ray")
        version("opencensus")
    except PackageNotFoundError:
        return Check("dashboard", "not installed (ray[default]); sweeps run without it")
    return Check("dashboard", "installed; a sweep prints its address, on this machine only")


def _writable(name: str, folder: Path) -> Check:
    nearest = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        return Check(name, f"{folder} cannot be written", well=False)
    return Check(name, f"{folder} can be written, {shutil.disk_usage(nearest).free / 1e9:.0f} GB free")


def _data(root: Path) -> list[Check]:
    from cvkan.domains import DOMAINS

    return [Check(f"data: {domain}/{name}", seen) for domain in DOMAINS for name, seen in DOMAINS[domain].found(root).items()]
