"""The images of one folder of tests/data, with the manifests that say what is in them."""

from __future__ import annotations

import json
import lzma
import os
from pathlib import Path
from typing import Any

_PIECE = bytes(1 << 16)


class Kept:
    """NAME.img.xz and NAME.json below tests/data/`folder`."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(__file__).parent / "data" / folder
        self._manifests: dict[str, dict[str, Any]] = {}
        self.names = sorted(path.name.removesuffix(".json") for path in self._folder.glob("*.json"))

    def images(self) -> list[str]:
        return sorted(path.name.removesuffix(".img.xz") for path in self._folder.glob("*.img.xz"))

    def told(self, name: str) -> dict[str, Any]:
        if name not in self._manifests:
            self._manifests[name] = json.loads((self._folder / f"{name}.json").read_text())
        return self._manifests[name]

    def having(self, key: str) -> list[str]:
        """The names of those whose manifest has `key`: "tree" of what can be read, "error" of what is refused."""
        return [name for name in self.names if key in self.told(name)]

    def image(self, name: str, place: Path) -> Path:
        """The raw image, decompressed once into the directory `place`, with holes where it is zero."""
        path = place / f"{name}.img"
        if not path.exists():
            data = lzma.decompress((self._folder / f"{name}.img.xz").read_bytes())
            with path.open("wb") as file:
                for at in range(0, len(data), len(_PIECE)):
                    piece = data[at : at + len(_PIECE)]
                    if piece == _PIECE[: len(piece)]:
                        file.seek(len(piece), os.SEEK_CUR)
                    else:
                        file.write(piece)
                file.truncate(len(data))
        return path
