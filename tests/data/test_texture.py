import numpy as np

from unequal.data import texture


def test_patterns_in_plain_loops():
    """Of the first radius, bins by how a code turns around."""
    grey = np.random.RandomState(0).randint(0, 256, (16, 24)).astype(np.uint8)
    found = texture.patterns(grey).reshape(2, 64, 59)[0]
    counts = np.zeros((64, 59))
    turns = [sum(str(a) != str(b) for a, b in zip(f"{c:08b}", f"{c:08b}"[1:] + f"{c:08b}"[:1]))
             for c in range(256)]
    bins, codes = {}, [code for code in range(256) if turns[code] <= 2]
    for code in range(256):
        bins[code] = codes.index(code) if code in codes else 58
    for y in range(16):
        for x in range(24):
            code = 0
            for bit, (down, right) in enumerate(((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1),
                                                 (1, 0), (1, -1), (0, -1))):
                other = grey[min(max(y + down, 0), 15), min(max(x + right, 0), 23)]
                code += int(other >= grey[y, x]) << bit
            counts[y // 2 * 8 + x // 3, bins[code]] += 1
    np.testing.assert_allclose(found, np.sqrt(counts / 6))


def test_features_are_of_length_one_and_know_pictures_apart():
    random = np.random.RandomState(1)
    looks = random.randint(0, 256, (5, 32, 32, 3))
    labels = np.repeat(np.arange(5), 6)
    pictures = [np.clip(looks[label] * 0.7 + random.randint(0, 60), 0, 255).astype(np.uint8)
                for label in labels]
    found = texture.features(iter(pictures), size=20)
    assert found.shape == (30, 20) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    cosines = found @ found.T
    same = labels[:, None] == labels
    assert cosines[same].min() > cosines[~same].max() + 0.2
    # A mirrored picture is the same face.
    mirrored = texture.features([pictures[0], pictures[0][:, ::-1], pictures[7]])
    np.testing.assert_allclose(mirrored[0], mirrored[1], atol=1e-3)


def test_pictures_that_are_all_the_same_have_features():
    grey = np.full((20, 20, 3), 7, np.uint8)
    assert np.isfinite(texture.features([grey] * 4)).all()
