"""`python -m genopt` is the command line."""

from genopt.cli import main

if __name__ == "__main__":
    main()
