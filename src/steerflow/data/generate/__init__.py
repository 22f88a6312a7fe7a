"""Data made here: OGBench's scripted experts in MuJoCo, any size, any number of processes, the same bytes."""

from steerflow.data.generate.run import make_data as make_data
from steerflow.data.generate.settings import available_names as available_names
