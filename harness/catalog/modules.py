"""Import plugins: from the copy of the project that this code is in, or as files of their own.

A plugin outside of a package (`submission=./my.py`) may be several files. Its files are modules of
a private package, which has the file itself as its top and knows only the files that were read and
hashed: nothing is found by listing folders, so a module that was not read cannot be imported. Their
imports of each other, `import helper` as well as `from . import helper`, are rewritten to that
package, so two plugins may both have a file `helper.py`.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

from harness.errors import UserError
from harness.system.paths import ROOT

PROJECT = ("submissions", "workloads")


class ProjectFinder(MetaPathFinder):
    """Finds the project's plugin packages beside this code, wherever else they could be found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in PROJECT:
            return None
        folder = ROOT / fullname
        return importlib.util.spec_from_file_location(
            fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


class FilesFinder(MetaPathFinder):
    """Finds the modules of plugins that are files of their own."""

    def __init__(self) -> None:
        self.plugins: dict[str, dict[str, Path | None]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        files = self.plugins.get(top, {})
        if fullname not in files:
            return None
        file = files[fullname]
        if file is None:
            # A folder without __init__.py.
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = []
            return spec
        package = fullname == top or file.name == "__init__.py"
        return importlib.util.spec_from_file_location(
            fullname,
            file,
            loader=FilesLoader(fullname, file, top, files),
            # An empty list: submodules are found by this finder alone.
            submodule_search_locations=[] if package else None,
        )


class FilesLoader(SourceFileLoader):
    """Loads one file of a plugin, its imports of the plugin's other files rewritten."""

    def __init__(self, fullname: str, file: Path, top: str, files: dict[str, Path | None]):
        super().__init__(fullname, str(file))
        self.rewriter = Rewriter(top, files)

    def get_code(self, fullname: str):
        """Return the compiled file, never a cached one: a cache has the imports as written."""
        parsed = ast.parse(self.get_data(self.path), self.path)
        return compile(self.rewriter.visit(parsed), self.path, "exec", dont_inherit=True)


class Rewriter(ast.NodeTransformer):
    """Rewrites imports of a plugin's own files to its private package."""

    def __init__(self, top: str, files: dict[str, Path | None]):
        self.top, self.files = top, files
        self.stem = file.stem if (file := files[top]) else ""

    def _private(self, dotted: str) -> str | None:
        """Return the private name of a module, or None if it is not a file of the plugin."""
        if dotted == self.stem:
            return self.top
        name = f"{self.top}.{dotted}"
        return name if name in self.files else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if not node.level and node.module and (private := self._private(node.module)):
            node.module = private
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.AST]:
        statements = []
        for alias in node.names:
            private = self._private(alias.name)
            first = self._private(alias.name.partition(".")[0])
            if private is None or first is None:
                statements.append(ast.Import([alias]))
            elif alias.asname or "." not in alias.name:
                name = alias.asname or alias.name
                statements.append(ast.Import([ast.alias(private, name)]))
            else:
                # `import a.b` binds a.
                name = alias.name.partition(".")[0]
                statements.append(ast.Import([ast.alias(private)]))
                statements.append(ast.Import([ast.alias(first, name)]))
        return [ast.fix_missing_locations(ast.copy_location(s, node)) for s in statements]


_project, _files = ProjectFinder(), FilesFinder()


def _install() -> None:
    for finder in (_files, _project):
        if finder not in sys.meta_path:
            sys.meta_path.insert(0, finder)


def load_packaged(name: str, path: Path) -> ModuleType:
    """Import a plugin's module from its package.

    Raises:
        UserError: Python finds another file by that name.
    """
    _install()
    module = importlib.import_module(name)
    found = Path(module.__file__ or "").resolve()
    if found != path.resolve():
        raise UserError(
            f"importing {name} gives {found}, not {path}: two copies of it can be imported",
            "one copy",
            "uninstall one of them, or take it out of PYTHONPATH",
        )
    return module


def load_files(name: str, path: Path, sources: Iterable[Path]) -> ModuleType:
    """Import a plugin's file as module `name`, anew each time, with the files it imports.

    Args:
        sources: the files that were read of it (discover.sources).
    """
    _install()
    files: dict[str, Path | None] = {name: path}
    for file in sources:
        if file == path or not file.is_relative_to(path.parent):
            continue
        parts = file.relative_to(path.parent).with_suffix("").parts
        for depth in range(1, len(parts)):
            files.setdefault(".".join((name, *parts[:depth])), None)
        files[".".join((name, *(p for p in parts if p != "__init__")))] = file
    for known in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        del sys.modules[known]
    _files.plugins[name] = files
    return importlib.import_module(name)
