"""The commands of `mmreward`: one command, one file, listed in `app/cli.py`."""
