"""`python -m p2pstream`, and the `p2pstream` command."""

from p2pstream.cli import main

if __name__ == "__main__":
    main()
