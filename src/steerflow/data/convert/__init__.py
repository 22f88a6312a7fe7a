"""Importing data of other formats: OGBench npz, plain npz and HDF5, Minari, LeRobot."""

from steerflow.data.convert.formats import FORMATS as FORMATS
from steerflow.data.convert.importer import import_data as import_data
from steerflow.data.convert.mapping import parse_mapping as parse_mapping
