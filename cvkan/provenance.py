"""Where a result comes from: the code, the machine, the libraries."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

import cvkan

PACKAGE = Path(cvkan.__file__).resolve().parent


@cache
def code_hash() -> str:
    """The first 16 hex digits of the SHA-256 of all modules that can change a trial's result."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(("report/", "cli")):
            digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@cache
def git_state() -> tuple[str | None, bool | None]:
    """The commit of the checkout that this package lies in, and whether files differ from it; None outside a checkout."""
    try:
        if not (PACKAGE.parent / ".git").exists():
            return None, None
        sha = _git("rev-parse", "HEAD")
        return sha, bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(PACKAGE.parent), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def machine(device: torch.device) -> dict[str, str]:
    """Columns of a row that tell where a trial ran."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({torch.get_num_threads()} threads)"
    return {
        "torch": str(torch.__version__),
        "device": name,
        "host": platform.node(),
        "cvkan_version": cvkan.__version__,
        "code_hash": code_hash(),
    }
