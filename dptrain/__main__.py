"""`python -m dptrain`."""

from dptrain.cli import main

if __name__ == "__main__":
    main()
