"""Editors, their sampling, and the algorithms that train them on rewards."""
