"""Packages of the wheel: srt_jax, and the config files of configs/ as srt_jax.configs. See pyproject.toml, too."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["srt_jax", "srt_jax.*"]), "srt_jax.configs"],
    package_dir={"srt_jax.configs": "configs"},
)
