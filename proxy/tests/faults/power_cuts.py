"""Cut the power under the log program, or another, again and again; needs root and a loop device.

    python power_cuts.py FOLDER KIND CUTS SEED [PROGRAM.py]     prints the tally of killing.py, or why it cannot: exit 77

A file system of its own, in an image file, is shut down by FS_IOC_SHUTDOWN without flushing its journal: what was
not synced is gone, as with a power cut. The program is stopped first, so that it acknowledges nothing more.
Source: the kernel's include/uapi/linux/fs.h and fs/ext4/ioctl.c (EXT4_GOING_FLAGS_NOLOGFLUSH).
"""

import contextlib
import fcntl
import json
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, struct.pack("I", 2)
CANNOT = 77
IMAGE_BYTES = 64 * 1024 * 1024
LONGEST_SECONDS = 0.4


def prepare(image: Path, mounted: Path) -> None:
    """Make the file system and try whether it can be mounted."""
    mounted.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    run("mkfs.ext4", "-q", "-F", str(image))
    with mount(image, mounted):
        pass


def cut_repeatedly(start, compare, image: Path, mounted: Path, kind: str, cuts: int, seed: int) -> dict[str, int]:
    """Cut as often as said; return the sums of what was found."""
    chance = random.Random(seed)
    tally: Counter[str] = Counter(cuts=cuts)
    for _ in range(cuts):
        with mount(image, mounted):
            acknowledged = cut_one_life(mounted, *start(mounted / "log", kind), chance.uniform(0.02, LONGEST_SECONDS))
        with mount(image, mounted):
            (mounted / "log").mkdir(exist_ok=True)
            tally.update(compare(mounted / "log", acknowledged))
            shutil.rmtree(mounted / "log")
    return dict(tally)


def cut_one_life(mounted: Path, pid: int, receiver: int, seconds: float) -> list[str]:
    """Cut the power after `seconds`; return what was acknowledged before."""
    heard = b""
    cut_at = time.monotonic() + seconds
    while (left := cut_at - time.monotonic()) > 0:
        if select.select([receiver], [], [], left)[0]:
            heard += os.read(receiver, 65536)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    descriptor = os.open(mounted, os.O_RDONLY)
    fcntl.ioctl(descriptor, SHUTDOWN, NO_LOG_FLUSH)
    os.close(descriptor)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while chunk := os.read(receiver, 65536):
        heard += chunk
    os.close(receiver)
    return heard.decode().split()


@contextlib.contextmanager
def mount(image: Path, mounted: Path):
    """Mount and unmount, with the loop device."""
    run("mount", "-o", "loop", str(image), str(mounted))
    try:
        yield
    finally:
        run("umount", str(mounted))


def run(*command: str) -> None:
    """Run a command of the system. Raises: RuntimeError with its words."""
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)}: {found.stderr.strip()}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from killing import compare, load_program

    where, kind, cuts, seed, *others = sys.argv[1:]
    start = load_program(Path(others[0]) if others else Path(__file__).with_name("log_program.py")).start
    image, mounted = Path(where) / "image", Path(where) / "mounted"
    try:
        prepare(image, mounted)
    except (OSError, RuntimeError) as error:
        print(f"power cuts: expected root, mkfs.ext4 and a loop device, found {error}")
        sys.exit(CANNOT)
    print(json.dumps(cut_repeatedly(start, compare, image, mounted, kind, int(cuts), int(seed))))
