"""Memory and time of opening, splitting and denoising sets of the size of MF2's head set.

    python benchmarks/records.py [--images 2003574] [--identities 96499]

1. Open a set with that many records and read its identity records: seconds, bytes a record.
2. Split it (its records hold no picture bytes): seconds and memory per 100,000 images.
3. Split and denoise 100,000 images of 5 kB: seconds, and memory, which must not grow with the bytes
   of the pictures.

Each figure comes from a process of its own; memory is its peak less its peak at the start.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict

import numpy as np

from unequal.data.copying import denoise, split
from unequal.data.records import RecordSet, RecordWriter


def write_empty_set(directory: str, images: int, identities: int) -> None:
    """Write a set of records without pictures; the sizes of its identities are long-tailed."""
    os.makedirs(directory)
    weights = 1 / np.arange(1, identities + 1) ** 0.7
    counts = np.maximum(1, np.floor(weights / weights.sum() * images)).astype(np.int64)
    counts[0] += images - counts.sum()
    ends = np.cumsum(counts) + 1
    # magic, length; flag, label, id, id2; then the two labels of an identity record
    image = np.dtype("<u4, <u4, <u4, <f4, <u8, <u8")
    pair = np.dtype("<u4, <u4, <u4, <f4, <u8, <u8, <f4, <f4")
    records = np.zeros(images, image)
    records["f0"], records["f1"] = 0xCED7230A, 24
    records["f3"] = np.repeat(np.arange(identities), counts)
    pairs = np.zeros(identities + 1, pair)
    pairs["f0"], pairs["f1"], pairs["f2"] = 0xCED7230A, 32, 2
    pairs["f6"] = np.append(images + 1, ends - counts)
    pairs["f7"] = np.append(images + 1 + identities, ends)
    with open(os.path.join(directory, "train.rec"), "wb") as file:
        file.write(pairs[:1].tobytes() + records.tobytes() + pairs[1:].tobytes())
    sizes = np.full(images + identities + 1, image.itemsize)
    sizes[0] = sizes[images + 1:] = pair.itemsize
    offsets = np.cumsum(sizes) - sizes
    np.savetxt(os.path.join(directory, "train.idx"),
               np.stack([np.arange(len(offsets)), offsets], 1), fmt="%d", delimiter="\t")
    with open(os.path.join(directory, "property"), "w") as line:
        line.write(f"{identities},112,112\n")


def write_full_set(directory: str, images: int, size: int) -> None:
    data = np.random.RandomState(0).bytes(size)
    with RecordWriter(directory, (112, 112)) as writer:
        for place in range(images):
            # identities of 5 and 20 images in turn
            writer.add(place // 25 * 2 + (place % 25 >= 5), data)


def stage_open(directory: str) -> Dict[str, float]:
    begin = time.perf_counter()
    records = RecordSet(directory)
    opened = time.perf_counter()
    identities = len(records.identity_ranges)
    return {"open": opened - begin, "ranges": time.perf_counter() - opened,
            "images": len(records), "identities": identities,
            "kept": sum(array.nbytes for array in vars(records).values()
                        if isinstance(array, np.ndarray) and array.base is None)}


def stage_split(directory: str) -> Dict[str, float]:
    sides = split(directory, directory + ".head", directory + ".tail")
    return {"images": sum(images for images, _ in sides)}


def stage_denoise(directory: str) -> Dict[str, float]:
    with RecordSet(directory) as records:
        keys = records.image_keys[::10]
        lines = [f"{records.image(key)[0]} {key} 0.001 0.0001\n" for key in keys]
    with open(directory + ".noise", "w") as file:
        file.writelines(lines)
    begin = time.perf_counter()
    images, _, dropped = denoise(directory, directory + ".noise", directory + ".out")
    return {"images": images + dropped, "time": time.perf_counter() - begin}


STAGES = {"open": stage_open, "split": stage_split, "denoise": stage_denoise}


def peak() -> int:
    # Not getrusage: its peak includes the memory of the process that forked this one.
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measured(stage: str, directory: str) -> Dict[str, Any]:
    """Run a stage in a process of its own; return its figures with seconds and bytes of memory."""
    output = subprocess.run([sys.executable, __file__, "--stage", stage, directory], check=True,
                            stdout=subprocess.PIPE).stdout
    return json.loads(output.decode().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2003574)
    parser.add_argument("--identities", type=int, default=96499)
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        name, directory = options.stage
        before, begin = peak(), time.perf_counter()
        figures = STAGES[name](directory)
        figures.setdefault("time", time.perf_counter() - begin)
        figures["memory"] = peak() - before
        print(json.dumps(figures))
        return
    scratch = tempfile.mkdtemp()
    try:
        path = os.path.join(scratch, "large")
        write_empty_set(path, options.images, options.identities)
        found = measured("open", path)
        print(f"{found['images']:,} images + {found['identities']:,} identities: opened in "
              f"{found['open']:.1f} s, identity records read in {found['ranges']:.1f} s; "
              f"{found['kept'] / 1e6:.1f} MB kept "
              f"({found['kept'] / (found['images'] + found['identities']):.1f} bytes a record), "
              f"peak {found['memory'] / 1e6:.0f} MB")
        found = measured("split", path)
        scale = 100000 / found["images"]
        print(f"split of it: {found['time'] * scale:.1f} s per 100,000 images; peak "
              f"{found['memory'] / 1e6:.0f} MB, {found['memory'] / found['images']:.0f} bytes an "
              "image")
        path = os.path.join(scratch, "pictures")
        write_full_set(path, 100000, 5000)
        begin = time.perf_counter()
        shutil.copyfile(os.path.join(path, "train.rec"), os.path.join(scratch, "copy"))
        with open(os.path.join(scratch, "copy"), "rb") as file:
            os.fsync(file.fileno())
        copied = time.perf_counter() - begin
        for stage in ("split", "denoise"):
            found = measured(stage, path)
            print(f"{stage} of 100,000 images of 5 kB (500 MB): {found['time']:.1f} s (copying the "
                  f"file {copied:.1f} s), peak {found['memory'] / 1e6:.0f} MB")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
