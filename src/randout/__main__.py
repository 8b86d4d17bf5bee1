"""Run the command line with `python -m randout`."""

from randout.cli.app import main

if __name__ == "__main__":
    main()
