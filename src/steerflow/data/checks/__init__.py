"""What can be wrong with a store, one file per kind of mistake; see ``steerflow.data.check``."""
