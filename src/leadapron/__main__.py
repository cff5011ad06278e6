"""`python -m leadapron`: the command line."""

from leadapron.cli import main

if __name__ == "__main__":
    main()
