"""How tests are shared out among workers."""

from xdist.scheduler import LoadScopeScheduling


class FilesAndNotebooks(LoadScopeScheduling):
    """A worker takes a whole file, whose tests share what they make; a notebook runs by itself."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return nodeid if file.endswith("test_notebooks.py") else file
