"""The layer that people use: the command line and the pages."""
