"""Environments: tasks by name and a pool of worker processes that steps them."""

from steerflow.envs.tasks import TaskError as TaskError
from steerflow.envs.tasks import canonical_data_name as canonical_data_name
from steerflow.envs.tasks import canonical_task as canonical_task
from steerflow.envs.tasks import known_tasks as known_tasks
from steerflow.envs.tasks import make_env as make_env
from steerflow.envs.tasks import require_known_task as require_known_task
from steerflow.envs.tasks import reset_env as reset_env
from steerflow.envs.tasks import tasks_of_data as tasks_of_data
