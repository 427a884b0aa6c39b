"""Features of some simulated people, and files of features as other programs write them."""
import numpy as np

from unequal.eval import features


def simulated():
    """15 probes of five people, their names, and 40 strangers; features of length 6."""
    random = np.random.RandomState(0)
    centres = random.randn(5, 6)
    probes = np.repeat(centres, 3, axis=0) + 0.5 * random.randn(15, 6)
    names = [f"set/p{row // 3}/p{row // 3}_{row % 3}.png" for row in range(15)]
    return probes.astype(np.float32), names, random.randn(40, 6).astype(np.float32)


def write_npz(path, array, names):
    np.savez(path, features=array, names=np.array(names, str))
    return str(path)


def write_npy(path, array, names):
    np.save(path, array)
    with open(str(path) + ".txt", "w", encoding="utf-8") as file:
        file.writelines(name + "\n" for name in names)
    return str(path)


def write_tree(path, array, names):
    for row, name in zip(array, names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        features.write_mat(str(path / (name + "_r50.bin")), row)
    return str(path)


WRITERS = {"a.npz": write_npz, "a.npy": write_npy, "a": write_tree}
