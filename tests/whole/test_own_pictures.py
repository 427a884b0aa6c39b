"""From folders of photographs with nasty names to a clean set, by the commands of the README."""
import csv

import cv2
import numpy as np

from helpers.pictures import encoded, rotated_jpeg, smooth
from unequal.commands import cli
from unequal.data.records import RecordSet
from unequal.training import auto

PEOPLE, PICTURES = 10, 5


def photographs(root):
    """People with one look each, under names and in forms that people's files have."""
    random = np.random.RandomState(0)
    for person in range(PEOPLE):
        folder = root / f"Åsa {person}, née O'Neil"
        folder.mkdir(parents=True)
        for number in range(PICTURES):
            # The last picture of the first two people is in the wrong folder: the other's.
            shown = 1 - person if person < 2 and number == PICTURES - 1 else person
            pixels = np.clip(smooth(16, 16, shown) + random.randint(-20, 21, (16, 16, 3)), 0,
                             255).astype(np.uint8)
            if number == 1:
                side = np.ascontiguousarray(np.rot90(pixels))  # a telephone held on its side
                (folder / "Фото (1).jpg").write_bytes(rotated_jpeg(side, 6))
            elif number == 2:
                alpha = np.concatenate((pixels[..., ::-1], np.full((16, 16, 1), 255, np.uint8)), 2)
                (folder / "with alpha.PNG").write_bytes(cv2.imencode(".png", alpha)[1].tobytes())
            elif number == 3 and person == 2:  # 24 megapixels
                large = cv2.resize(pixels, (4900, 4900), interpolation=cv2.INTER_LINEAR)
                (folder / "a b  3.jpg").write_bytes(encoded(large))
            else:
                (folder / f"a b  {number}.jpg").write_bytes(encoded(pixels))
        (folder / "broken.jpg").write_bytes(encoded(pixels)[:40])
        (folder / "read me.txt").write_text("no picture")


def test_the_whole_way(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "my photos")
    chosen = auto.settings
    monkeypatch.setattr(auto, "settings", lambda *sizes, **more: auto.replace(
        chosen(*sizes, **more), max_steps=6, lr_steps="4", verbose=6, per_batch_size=16))

    def run(*arguments):
        assert cli.main(list(arguments)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    said = run("pack", "my photos", "people", "--size", "16", "--verify", "20%", "--processes", "1")
    assert f"{8 * PICTURES} images of 8 identities" in said and "16 pictures skipped" in said
    run("train", "auto", "people", "--prefix", "models/first")
    run("noise", "people", "--pretrained", "models/first,best", "--out", "suspects")
    with open("suspects.csv", encoding="utf-8", newline="") as file:
        suspects = list(csv.DictReader(file))
    with open("people/train.lst", encoding="utf-8") as file:
        paths = [line.split("\t")[1] for line in file]
    assert all(row["path"] == paths[int(row["key"]) - 1] for row in suspects)

    # As a person decides who sees that the two are exchanged (if they were not held out).
    with RecordSet("people") as records:
        labels, keys = records.labels(), records.image_keys
    moved, dropped = keys[0], keys[-1]
    with open("decisions.csv", "w", encoding="utf-8") as file:
        file.write(f"key,decision,label\n{moved},relabel,{labels[-1]}\n{dropped},drop,\n")
    said = run("denoise", "people", "decisions.csv", "clean")
    assert "1 dropped, 1 relabelled" in said
    with open("clean/changes.csv", encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [paths[0], paths[-1]]
    run("inspect", "clean")
    run("train", "auto", "clean", "--prefix", "models/second")
    said = run("verify", "--model", "models/second,best", "--data-dir", "people", "--target",
               "verify", "--bootstrap", "none")
    assert "verify" in said
    run("unpack", "clean", "clean photos")
    names = {path.name for path in (tmp_path / "clean photos").iterdir()}
    assert names < {f"Åsa {person}, née O'Neil" for person in range(PEOPLE)} and len(names) == 8
