"""What a QEMU guest runs to make the images of xfs_log.py that need its kernel; see xfs_guest.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def inside(job: Path) -> None:
    """Make each image that the list names, and write down what this kernel shows after recovery."""
    sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
    from recipes import xfs_log
    from recipes.host import copy_sparse

    recipes = {recipe.name: recipe for recipe in xfs_log.recipes(guest=True)}
    for name in json.loads((job / "list.json").read_text()):
        image = Path("/tmp") / f"{name}.img"
        xfs_log.make(recipes[name], image)
        told = xfs_log.describe(recipes[name], image)
        copy_sparse(image, job / f"{name}.img")
        (job / f"{name}.json").write_text(json.dumps(told))
        image.unlink()


if __name__ == "__main__":
    inside(Path(sys.argv[1]))
