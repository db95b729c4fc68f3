"""``python -m learnerd``."""

from learnerd.cli import main

if __name__ == "__main__":
    main()
