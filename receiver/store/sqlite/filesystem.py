"""Which file system a path lies on, and whether it is a network one (where WAL is not safe: sqlite.org/wal.html)."""

from pathlib import Path

_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "fuse.glusterfs"}


def file_system(path: Path) -> tuple[str, bool]:
    """(type of the file system, whether it is a network one); `unknown` where the system does not say."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        target = path.parent.resolve()
    except OSError:
        return "unknown", False
    best, kind = -1, "unknown"
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].replace("\\040", " "))
        if (target == point or point in target.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split()[0]
    return kind, kind in _REMOTE
