"""Steering a frozen flow: the one loop (``sample``), its six families of swappable values, presets and the actor.

The package can be called: ``steerflow.steer(policy, critic, "qgf")`` is ``steerflow.steer.actor.steer``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    # Python binds a package to its name in the parent as soon as it is imported, over a function of that name.
    def __call__(self, *arguments: Any, **changes: Any) -> Any:
        from steerflow.steer.actor import steer

        return steer(*arguments, **changes)


sys.modules[__name__].__class__ = _Callable
