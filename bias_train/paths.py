"""Where the shipped configurations and job scripts lie: in a checkout, or inside an installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def config_root() -> Path:
    """Return the folder that holds ``configs``."""
    checkout = _PACKAGE.parent
    return checkout if (checkout / "configs").is_dir() and (checkout / "pyproject.toml").is_file() else _PACKAGE


def find_config(path: str | Path) -> Path:
    """Find a configuration by a path relative to here, or as the project ships it.

    Args:
        path: for example ``configs/experiment/cifake_source.yaml``.

    Raises:
        FileNotFoundError: naming both places that were looked at.
    """
    given = Path(path)
    if given.is_file():
        return given
    shipped = config_root() / given
    if not given.is_absolute() and shipped.is_file():
        return shipped
    raise FileNotFoundError(f"no configuration {given} here, and none is shipped under that name in {config_root()}")


def find_script(name: str | Path) -> Path:
    """Find a job script: the path itself, ``slurm/NAME`` here (where users keep those they have edited), or as shipped.

    Args:
        name: for example ``sweep.sbatch``.

    Raises:
        FileNotFoundError: naming the places that were looked at.
    """
    shipped = _PACKAGE.parent / "slurm" if config_root() != _PACKAGE else _PACKAGE / "slurm_scripts"
    places = (Path(name), Path("slurm") / name, shipped / name)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"no job script {name} here, in slurm/, or shipped in {shipped}")
