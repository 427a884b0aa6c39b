"""Small record sets, every image with bytes of its own."""
import mxnet as mx

from helpers.pictures import encoded, smooth
from unequal.data.records import RecordSet, RecordWriter

PICTURE = encoded(smooth(16, 16))
# A record may contain RecordIO's magic number, which the format escapes by splitting the record.
MAGIC = b"\x0a\x23\xd7\xce"


def make(directory, counts, identities=True, arrays=False, listed=True, gap=0, order=None):
    """A set whose class i has counts[i] images, each with bytes of its own."""
    images = [(label + gap, number) for label, count in enumerate(counts)
              for number in range(count)]
    if order is not None:
        images = [images[place] for place in order]
    with RecordWriter(str(directory), (16, 16), len(counts) + gap, identities) as writer:
        for label, number in images:
            data = PICTURE + f"{label}/{number}".encode() + MAGIC * (number % 3)
            if arrays:
                header = mx.recordio.IRHeader(0, [label, 0.5, number], 1000 + number, 7)
                writer.add_payload(label, mx.recordio.pack(header, data),
                                   f"1\t{label}/{number}\t{label}\t1\t2\t3\t4\n")
            else:
                writer.add(label, data, f"{label}/{number}" if listed else None)
    return str(directory)


def content(directory):
    with RecordSet(directory) as records:
        return [records.image(key) for key in records.image_keys]


COUNTS = [3, 10, 1, 12, 9, 2]


def noise_list(tmp_path, *lines):
    """A noise list of these lines."""
    (tmp_path / "0_noiselist.txt").write_text("".join(line + "\n" for line in lines))
    return str(tmp_path / "0_noiselist.txt")


def decision_list(tmp_path, *lines):
    """A file of decisions of these lines."""
    path = tmp_path / "decisions.csv"
    path.write_text("key,decision,label\n" + "".join(line + "\n" for line in lines))
    return str(path)


# On `make(..., COUNTS)`, whose keys are 1-3, 4-13, 14, 15-26, 27-35, 36-37 of the classes 0 to 5.
DECIDED = ("2,drop,", "14,relabel,3", "36,relabel,0", "3,keep,", "4,unsure,", "5,drop,",
           "5,keep,", "37,relabel,5")
