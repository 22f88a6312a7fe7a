"""Compiled programs are kept on disk, so that the next process does not compile them again: JAX's own compilation cache.

JAX names an entry after the program, its options, the compiler's version and the processor. The folder may be deleted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
# Programs that compile faster than this many seconds are not kept.
_LEAST, _SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", 0.1


def keep_compiled() -> Path | None:
    """Keep what this process compiles from now on, and what its children compile; returns the folder.

    It is ``steerflow/compiled`` in the user's cache folder (XDG_CACHE_HOME, else ~/.cache). A folder chosen through JAX, by
    JAX_COMPILATION_CACHE_DIR or ``jax_compilation_cache_dir``, stays. None, and nothing is kept, where the folder cannot be
    written or STEERFLOW_KEEP_COMPILED=0 says so. Does not import jax.
    """
    if os.environ.get("STEERFLOW_KEEP_COMPILED", "1") == "0":
        return None
    if chosen := os.environ.get(_FOLDER):
        return Path(chosen)
    jax = sys.modules.get("jax")
    if jax is not None and (chosen := jax.config.jax_compilation_cache_dir):
        return Path(chosen)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "steerflow" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    os.environ[_FOLDER] = str(folder)
    os.environ.setdefault(_LEAST, str(_SECONDS))
    if jax is not None:
        # jax has read its environment.
        keep_in(str(folder), float(os.environ[_LEAST]))
    return folder


def keep_in(folder: str | None, least: float = _SECONDS) -> None:
    """Keep what this process compiles from now on in ``folder``, if it takes ``least`` seconds; None keeps nothing."""
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    # If jax compiled before, it has settled where.
    reset_cache()
