"""The policy of a runner: what it may read and write, and its limits. `sandbox` enforces it."""

import glob
import json
import os
import shutil
import site
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.system import paths
from harness.system.paths import ROOT
from harness.system.procfs import LINUX

# Rooms of the harness that a runner does not import: they hold the clock, the goal, the records.
ROOMS = ("race", "clock", "records", "report", "laws", "campaign", "cli")
LIBRARIES = ("/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/opt/cuda")
SYSTEM = (
    *(f"/etc/{name}" for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives")),
    *(f"/etc/{name}" for name in ("localtime", "timezone", "passwd", "group", "os-release")),
    *(f"/proc/{name}" for name in ("self", "cpuinfo", "meminfo", "stat", "version", "loadavg")),
    *("/proc/filesystems", "/proc/sys/vm", "/proc/sys/kernel", "/sys/devices/system"),
    *("/sys/fs/cgroup", "/dev/random", "/dev/urandom"),
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
GPU = ("/dev/nvidia*", "/dev/kfd", "/dev/dri", "/dev/shm")
# what a GPU's driver reads
GPU_READS = ("/proc", "/sys", "/etc/nvidia*", "/etc/OpenCL")
# what gloo and NCCL read of the machine before they connect processes
GROUP_READS = ("/sys/bus/pci/devices", "/sys/devices/pci*", "/sys/class/net")
# Share of the free memory that a runner may use. Beyond it the trial ends as `oom`, and no other
# process is affected.
MEMORY_SHARE = 0.8
# Share of the free disk that one file may use.
FILE_SHARE = 0.25
FILES = 4096  # open files


def make(
    level: str,
    *,
    writable: list[Path],
    data: list[Path | None],
    sources: list[Path],
    plugins: Iterable[Path],
    device: str,
    hidden: list[Path],
    processes: int = 1,
) -> dict:
    """Return the policy of a runner, as plain data for its start message.

    Args:
        level: the level of isolation.
        writable: its private folder, checkpoints and step count; they must exist.
        data: folders of prepared training data and pretrained weights.
        sources: the files of the submission and of the workload, all of them hashed.
        plugins: folders of the packages that submissions and workloads come from. Their names can
            be listed, for Python's import; of their files only `sources` can be read.
        device: where the runner trains.
        hidden: folders that a runner must not read; they are left out of every readable tree.
        processes: of the trial.
    """
    plugins = [folder.resolve() for folder in plugins]
    hidden = [*hidden, paths.cache_folder(), *(ROOT / name for name in ("conf", "results"))]
    hidden += [*plugins, *(ROOT / "harness" / room for room in ROOMS)]
    hidden = [path.resolve() for path in hidden]
    trees, listable = [], list(plugins)
    for tree in _libraries():
        parts = list(_without(tree, hidden))
        trees += parts
        listable += [tree] * (parts != [tree])
    data_paths = [path.resolve() for path in data if path]
    for folder in list(data_paths):
        names = json.loads((folder / "paths.json").read_text())
        data_paths += [Path(path).resolve() for path in names.values()]
    gpu = device.startswith("cuda")
    system_paths = [*SYSTEM, *(GPU_READS if gpu else ())]
    system_paths += GROUP_READS if processes > 1 else ()
    devices = [*DEVICES, *(GPU if gpu else ())]
    matches = lambda patterns: [p for pattern in patterns for p in glob.glob(pattern)]  # noqa: E731
    free = shutil.disk_usage(writable[0]).free
    limits = {"CORE": 0, "NOFILE": FILES, "FSIZE": int(free * FILE_SHARE)}
    # A GPU's driver reserves terabytes of addresses, so there is no limit with a GPU.
    if LINUX and not gpu:
        limits["DATA"] = int(_free_memory() * MEMORY_SHARE)
    return {
        "level": level,
        "readable": [*map(str, [*trees, *data_paths, *sources]), *matches(system_paths)],
        "listable": [str(path) for path in listable],
        "writable": [str(path.resolve()) for path in writable] + matches(devices),
        "limits": limits,
    }


def _libraries() -> list[Path]:
    """Return the folders of Python and its packages, and that of the harness."""
    folders = {Path(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix, *LIBRARIES)}
    folders.add(ROOT / "harness")
    folders |= {Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if p}
    folders |= {Path(p) for p in sys.path if p and p.startswith(site.getuserbase())}
    home, project = Path.home(), ROOT
    for entry in map(Path, filter(os.path.isabs, sys.path)):
        if not any(outer in (entry, *entry.parents) for outer in folders) and not any(
            inner.is_relative_to(entry) for inner in (home, project)
        ):
            folders.add(entry)
    return sorted({path.resolve() for path in folders if path.exists()})


def _without(tree: Path, hidden: list[Path]) -> Iterator[Path]:
    """Yield the tree, or, if it contains hidden folders, the parts of it without them."""
    if any(tree == path for path in hidden):
        return
    if not any(path.is_relative_to(tree) for path in hidden if path.exists()):
        yield tree
        return
    for child in sorted(tree.iterdir()):
        # The target of a symbolic link is in another readable tree, or hidden.
        if not child.is_symlink():
            yield from _without(child, hidden)


def _free_memory() -> int:
    """Return the bytes of memory that are available without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
