"""Packing speed compared with decode + encode alone of the same pictures, one core each.

    python benchmarks/packing.py [--pictures 2000]

Two kinds of pictures: faces already cut out (112x112 JPEG, which pack copies byte for byte) and
snapshots (600x800 JPEG, which pack resizes to 112x112). The peer is OpenCV on bytes in memory:
imdecode, a resize of snapshots, imencode. The two run in turn, and the best of three runs counts.
"""
import argparse
import os
import tempfile
import time
from typing import Any, Callable, List

import cv2
import numpy as np

from unequal.data.convert import Settings, pack

KINDS = {"ready 112x112": (112, 112), "snapshot 600x800": (600, 800)}


def picture(height: int, width: int, seed: int) -> bytes:
    """A random JPEG with about as much detail as a face (about 6 kB at 112x112)."""
    random = np.random.RandomState(seed)
    coarse = cv2.resize(random.randint(0, 256, (7, 7, 3), np.uint8), (width, height),
                        interpolation=cv2.INTER_CUBIC)
    noise = random.randint(-6, 7, coarse.shape)
    pixels = np.clip(coarse + noise, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def bare(pictures: List[bytes]) -> None:
    """Decode the pictures and encode them again; write nothing."""
    for data in pictures:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if pixels.shape[0] != 112:
            pixels = cv2.resize(pixels, (112, 112), interpolation=cv2.INTER_AREA)
        cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000)
    count = parser.parse_args().pictures
    cv2.setNumThreads(1)
    for kind, size in KINDS.items():
        number = count if size[0] == 112 else count // 4
        pictures = [picture(*size, seed=seed) for seed in range(min(number, 200))]
        people = len(pictures) // 10
        pictures = (pictures * (number // len(pictures) + 1))[:number]
        with tempfile.TemporaryDirectory() as scratch:
            faces = os.path.join(scratch, "faces")
            for place, data in enumerate(pictures):
                # All copies of a picture go to one person: pack reports pictures of two people.
                folder = os.path.join(faces, f"{place % people:05}")
                os.makedirs(folder, exist_ok=True)
                with open(os.path.join(folder, f"{place}.jpg"), "wb") as file:
                    file.write(data)
            best = {"pack": np.inf, "bare": np.inf}
            for _ in range(3):
                best["bare"] = min(best["bare"], seconds(bare, pictures))
                best["pack"] = min(best["pack"], seconds(
                    pack, faces, os.path.join(scratch, "set"), Settings(faces)))
        print(f"{kind}: unequal pack {number / best['pack']:,.0f} pictures/s per core, bare "
              f"decode+encode {number / best['bare']:,.0f}, ratio "
              f"{best['bare'] / best['pack']:.2f}")


if __name__ == "__main__":
    main()
