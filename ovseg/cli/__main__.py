"""``python -m ovseg.cli``."""

from ovseg.cli import main

if __name__ == "__main__":
    main()
