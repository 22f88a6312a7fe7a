"""A worker process of the pool: builds environments, runs action chunks in them, answers. Started with ``python -m``.

The messages between pool and worker are a JSON list of records and the float32 arrays that belong to them, in order.
This module must stay light: no jax, and gymnasium only once an environment is built.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from steerflow.envs.tasks import copy_env, global_random_state, make_env, reset_env, set_global_random_state
from steerflow.errors import SteerflowError

Item = tuple[dict[str, Any], np.ndarray | None]

# Answers of fast environments share messages, which cost about 0.1 ms of the pool's time each.
_MESSAGE_SECONDS = 1e-3


def pack(items: Iterable[Item]) -> bytes:
    """Records with their arrays as bytes; no pickle, and floats arrive as they were."""
    heads, bodies = [], []
    for record, array in items:
        if array is not None:
            body = np.ascontiguousarray(array, np.float32)
            record = {**record, "shape": body.shape}
            bodies.append(body.tobytes())
        heads.append(record)
    return b"\n".join([json.dumps(heads).encode(), b"".join(bodies)])


def unpack(message: bytes) -> list[Item]:
    head, _, body = message.partition(b"\n")
    items, offset = [], 0
    for record in json.loads(head):
        array = None
        if "shape" in record:
            shape = record.pop("shape")
            array = np.frombuffer(body, np.float32, int(np.prod(shape)), offset).reshape(shape)
            offset += array.nbytes
        items.append((record, array))
    return items


class _Lane:
    """One environment and the random state that belongs to its episode."""

    def __init__(self, task: str, other: _Lane | None) -> None:
        self.env = (copy_env(other.env) if other else None) or make_env(task)
        self.action_dim = int(np.prod(self.env.action_space.shape or ()))
        self.random_state: Any = None

    def start(self, seed: int) -> Item:
        begin = time.perf_counter()
        observation, _ = reset_env(self.env, seed)
        self.random_state = global_random_state()
        return self._reply(observation, 0.0, 0, False, None, begin)

    def execute(self, actions: np.ndarray) -> Item:
        """Run a chunk (chunk, action) open loop, until its end or the episode's."""
        if actions.ndim != 2 or actions.shape[1] != self.action_dim:
            raise SteerflowError(
                f"The policy's actions have {actions.shape[-1]} dimensions, this environment's {self.action_dim}. "
                "Use a policy that was trained on this robot's data."
            )
        begin = time.perf_counter()
        set_global_random_state(self.random_state)
        observation, total, steps, done, success = None, 0.0, 0, False, None
        for action in actions:
            # A copy: environments may write into what they are given.
            observation, reward, terminated, truncated, info = self.env.step(action.copy())
            total += float(reward)
            steps += 1
            if done := bool(terminated or truncated):
                success = bool(info["success"]) if "success" in info else None
                break
        self.random_state = global_random_state()
        return self._reply(observation, total, steps, done, success, begin)

    @staticmethod
    def _reply(observation: Any, total: float, steps: int, done: bool, success: bool | None, begin: float) -> Item:
        seconds = time.perf_counter() - begin
        record = {"reward": total, "steps": steps, "done": done, "success": success, "seconds": seconds}
        return record, np.asarray(observation)


def serve(connection: Connection, task: str) -> None:
    """Run commands until the pool closes the connection.

    Answers leave while other commands wait, so that the pool decides for some lanes while others are stepped.
    """
    lanes: dict[int, _Lane] = {}
    sent = 0.0
    while True:
        commands = unpack(connection.recv_bytes())
        while connection.poll(0):
            commands += unpack(connection.recv_bytes())
        replies: list[Item] = []
        for left, (command, actions) in zip(reversed(range(len(commands))), commands, strict=True):
            number = command["lane"]
            try:
                building = 0.0
                if number not in lanes:
                    begin = time.perf_counter()
                    lanes[number] = _Lane(task, next(iter(lanes.values()), None))
                    building = time.perf_counter() - begin
                lane = lanes[number]
                record, observation = lane.start(command["seed"]) if actions is None else lane.execute(actions)
            except Exception as error:
                failure = {"lane": number, "error": _describe(error)}
                connection.send_bytes(pack([(failure, None)]))
                return
            replies.append(
                ({"lane": number, "episode": command["episode"], "building": building, **record}, observation)
            )
            if not left or time.perf_counter() - sent > _MESSAGE_SECONDS:
                connection.send_bytes(pack(replies))
                replies, sent = [], time.perf_counter()


def _describe(error: Exception) -> str:
    if isinstance(error, SteerflowError):
        return str(error)
    # The environment's code is the user's: show where it failed.
    return f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}".rstrip()


def _exit_with_parent(parent: int) -> None:
    # A closed connection ends ``serve``; this ends a worker that hangs inside an environment.
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main(arguments: list[str]) -> None:
    descriptor, parent, task = arguments
    # Ctrl-C goes to the pool's process, which then closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(int(parent),), daemon=True).start()
    try:
        serve(Connection(int(descriptor)), task)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main(sys.argv[1:])
