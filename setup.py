"""Package metadata is read from settings.ini; the version from ccella/__init__.py."""

import re
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(ROOT / "settings.ini", encoding="utf-8")
s = ini["DEFAULT"]
init = (ROOT / s["lib_path"] / "__init__.py").read_text(encoding="utf-8")
version = re.search(r'^__version__\s*=\s*["\']([^"\']+)', init, re.M).group(1)


class BuildWithStages(build_py):
    """Put the stage notebooks into the wheel as ccella/experiments, so that they have one source: nbs/experiments.

    The explorer's notebook goes beside them, as ccella/explorer.ipynb. An editable install has no copies; there the
    package finds both in nbs beside itself.
    """

    def _stages(self) -> list[tuple[Path, Path]]:
        package = Path(self.build_lib) / s["lib_path"]
        notebooks = sorted(Path(s["nbs_path"], "experiments").glob("[!._]*.ipynb"))
        copies = [(nb, package / "experiments" / nb.name) for nb in notebooks]
        explorer = Path(s["nbs_path"], "explorer.ipynb")
        return [] if self.editable_mode else [*copies, (explorer, package / explorer.name)]

    def run(self):
        """Build as usual, then copy the stages."""
        super().run()
        for source, copy in self._stages():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def get_outputs(self, include_bytecode=True):
        """List what was built, the stages too."""
        return super().get_outputs(include_bytecode) + [str(copy) for _, copy in self._stages()]


setup(
    version=version,
    description=s["description"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=s["author"],
    keywords=s["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    packages=find_packages(include=[s["lib_path"], s["lib_path"] + ".*"]),
    package_data={s["lib_path"]: ["*.css", "recipes/*.yaml", "weights/**/*", "grid/**/*", "organs/**/*.yaml"]},
    include_package_data=False,
    python_requires=">=" + s["min_python"],
    install_requires=s["requirements"].split(),
    extras_require={
        "dev": s["dev_requirements"].split(),
        "slurm": s["slurm_requirements"].split(),
        "taps": s["taps_requirements"].split(),
    },
    entry_points={"console_scripts": s["console_scripts"].split("\n")},
    cmdclass={"build_py": BuildWithStages},
)
