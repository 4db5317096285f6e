"""Versions of the packages and drivers that must fit together. Needs no JAX."""

import importlib.metadata
import subprocess

PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda13-plugin",
    "jax-cuda13-pjrt",
    "jax-cuda12-plugin",
    "jax-cuda12-pjrt",
    "nvidia-cudnn-cu13",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
)


def version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed() -> dict[str, str]:
    """The versions of those of PACKAGES that are installed, and of the NVIDIA driver."""
    found = {name: version(name) for name in PACKAGES} | {"driver": nvidia_smi("driver_version")}
    return {name: value.splitlines()[0] for name, value in found.items() if value}


def nvidia_smi(query: str, gpus: str = "") -> str | None:
    """The answer of nvidia-smi, with a line for each GPU, or None if it fails. gpus: a selection such as `0,1`."""
    try:
        command = ["nvidia-smi", *([f"--id={gpus}"] if gpus else []), f"--query-gpu={query}", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
