"""Optional libraries, imported when a format needs them."""

from __future__ import annotations

import importlib
from typing import Any

from steerflow.errors import DataError


def require(module: str, what: str, extra: str = "import") -> Any:
    """The module, or a DataError that says what to install: ``require("h5py", "Reading HDF5")``."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = module.partition(".")[0]
        raise DataError(
            f"{what} needs {missing}, which is not installed. Type: pip install 'steerflow[{extra}]'"
        ) from error
