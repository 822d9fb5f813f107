"""The wheel and the source archive, each installed alone and run on a photo from another folder.

    .venv/bin/python tools/check_packages.py

Each gets an environment of its own. The packages that ovseg depends on are borrowed from the environment that runs
this program, so that nothing is downloaded twice; ovseg itself is not.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "examples" / "cat.jpg"
MOST_MEGABYTES = 75


def call(*command: str | Path, cwd: Path) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def environment(folder: Path) -> Path:
    """The Python of a new environment that sees the packages of this one, but no ovseg."""
    call(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    packages = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    Path(packages, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def check(archive: Path, folder: Path) -> None:
    """Install ``archive`` alone and segment a photo with it."""
    folder.mkdir()
    python = environment(folder / "environment")
    call(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", archive, cwd=folder)
    place = call(python, "-c", "import ovseg; print(ovseg.__file__)", cwd=folder).strip()
    if not Path(place).is_relative_to(folder):
        sys.exit(f"expected ovseg inside '{folder}', got '{place}'")
    table = call(folder / "environment" / "bin" / "ovseg", "segment", PHOTO, "cat", "wall", cwd=folder)
    if "cat" not in table or not (folder / "out" / "cat_overlay.png").is_file():
        sys.exit(f"{archive.name} made no overlay:\n{table}")
    call(python, "-c", "import ovseg.sam; ovseg.sam.load_sam()", cwd=folder)  # its weights are there, and whole
    print(f"{archive.name}: {archive.stat().st_size / 2**20:.1f} MB, segments a photo")


def main() -> None:
    """Build both archives and check them."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        call(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT, cwd=folder)
        (wheel,), (source,) = (list((folder / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
        if wheel.stat().st_size > MOST_MEGABYTES * 2**20:
            sys.exit(f"the wheel must have at most {MOST_MEGABYTES} MB, got {wheel.stat().st_size / 2**20:.1f}")
        check(wheel, folder / "wheel")
        check(source, folder / "source")


if __name__ == "__main__":
    main()
