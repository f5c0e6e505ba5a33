"""`python -m edgekd`: the command line, where its script is not in the path."""

from edgekd.cli.main import main

if __name__ == "__main__":
    main()
