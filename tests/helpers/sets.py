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
            data = PICTURE + "{}/{}".format(label, number).encode() + MAGIC * (number % 3)
            if arrays:
                header = mx.recordio.IRHeader(0, [label, 0.5, number], 1000 + number, 7)
                writer.add_payload(label, mx.recordio.pack(header, data),
                                   "1\t{}/{}\t{}\t1\t2\t3\t4\n".format(label, number, label))
            else:
                writer.add(label, data, "{}/{}".format(label, number) if listed else None)
    return str(directory)


def content(directory):
    with RecordSet(directory) as records:
        return [records.image(key) for key in records.image_keys]
COUNTS = [3, 10, 1, 12, 9, 2]
