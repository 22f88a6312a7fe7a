"""``python -m steerflow``."""

from steerflow.cli.main import main

if __name__ == "__main__":
    main()
