"""Found before the package of this name: as if it was not installed (tests/conftest.py says why)."""

raise ImportError(__doc__)
