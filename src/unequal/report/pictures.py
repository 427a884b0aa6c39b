"""Sections of ``unequal report`` that show pictures: suspected labels, confusable identities."""
from itertools import islice
from typing import Any, Dict, Optional, Tuple

import numpy as np
from sklearn.metrics import precision_recall_curve

from unequal.data import copying, noise_lists
from unequal.data.records import RecordSet
from unequal.models import noise_scan
from unequal.report import page, tables
from unequal.report.page import Html, join, tag
from unequal.report.runs import Run
from unequal.training import mining, tail

SUSPECTS, PAIRS = 24, 12  # pictures, pairs of identities on the page
MAP_IMAGES = 40  # of a person on the map
TAIL_IMAGES, TAIL_BAG = 3, 3600  # images of an identity, images in all: one bag of the recipe

# Kind of label noise (`unequal synth`) -> what a picture of it is, as a template for str.format;
# {} is the true identity.
TRUTHS = {"flip": "Wrong label: this is {}", "split": "Second label of {}",
          "outlier": "Nobody of the set", "clean": "The label is right"}
KINDS = {"flip": "wrong label", "split": "second label of a person",
         "outlier": "nobody of the set", "all": "all noise"}


def _truth(run: Run) -> Dict[int, Tuple[int, str]]:
    path = run.part("noise", "truth")
    return noise_lists.read_truth(path) if path else {}


def suspects(run: Run) -> Optional[Html]:
    """The images that the noise scores find worst."""
    scores, head = run.part("noise", "scores"), run.head
    if not scores or not head:
        return None
    columns, truth = noise_lists.read_scores(scores), _truth(run)
    order = np.lexsort((columns["key"], columns["score"]))
    # The least suspected picture of each label shows which person the label stands for.
    best_first = order[::-1]
    labels, first = np.unique(columns["label"][best_first], return_index=True)
    typical = dict(zip(labels, columns["key"][best_first][first]))
    worst = order[:SUSPECTS]
    with RecordSet(head) as records:
        cards = [_suspect(records, {name: column[row] for name, column in columns.items()},
                          typical, truth) for row in worst]
    words = ("The images of the head whose labels look worst to the model, the worst first. Beside "
             "each, the picture that the model finds most typical of the given label, and of the "
             "label it predicts.")
    if truth:
        wrong = np.array([truth.get(int(key), (0, ""))[1] != "clean" for key in columns["key"]])
        words += (f" In truth {wrong[worst].sum()} of these {len(worst)} labels are wrong; in the "
                  f"whole set {wrong.mean():.0%} are.")
    return join(tag("p", words), tag("div", *cards, class_="cards"))


def _suspect(records: RecordSet, row: Dict[str, Any], typical: Dict[int, int],
             truth: Dict[int, Tuple[int, str]]) -> Html:
    """The card of one image; ``row`` has its scores."""
    def shown(key: int, caption: str) -> Html:
        source = f"{records.path}: record {key}"
        return page.figure(page.picture(records.image(key)[1], source, caption), caption)

    faces = [shown(row["key"], f"image {row['key']}")]
    for words, label in (("label", row["label"]), ("predicted", row["prediction"])):
        if label in typical:
            faces.append(shown(typical[label], f"{words} {label}"))
    lines = [tag("p", f"{row['prediction']} has a probability of {row['max_probability']:.1%}, "
                      f"the label of {row['label_probability']:.1%}")]
    if int(row["key"]) in truth:
        identity, kind = truth[int(row["key"])]
        lines.append(tag("p", TRUTHS.get(kind, kind).format(identity),
                         class_="miss" if kind == "clean" else "hit"))
    return tag("article", tag("div", *faces, class_="faces"), *lines)


def noise_quality(run: Run) -> Optional[Html]:
    """Precision and recall of the noise scores, kind by kind, where the truth is known."""
    scores, truth = run.part("noise", "scores"), _truth(run)
    if not scores or not truth:
        return None
    columns, listing = noise_lists.read_scores(scores), run.part("noise", "list")
    listed = np.isin(columns["key"], noise_lists.read_list(listing)[1] if listing else [])
    kinds = np.array([truth.get(int(key), (0, ""))[1] for key in columns["key"]])
    rows, curves = [], []
    for kind, numbers in noise_scan.quality(columns, listed, truth):
        if not numbers["count"]:
            continue
        noisy = kinds != "clean" if kind == "all" else kinds == kind
        among = noisy | (kinds == "clean")
        precision, recall, _ = precision_recall_curve(noisy[among], -columns["score"][among])
        curves.append((numbers, precision[:-1], recall[:-1]))  # scikit-learn adds the last point
        rows.append([KINDS[kind], f"{numbers['count']:,}"] + [
            tables.percent(value, 1) for value in (
                noisy.sum() / among.sum(), numbers["average_precision"], numbers["precision"],
                numbers["recall"])])
    if not rows:
        return None

    def draw(axes: Any, color: Any) -> None:
        for line, (numbers, precision, recall) in enumerate(curves):
            some = np.unique(np.linspace(0, len(recall) - 1, 400).astype(int))
            axes.plot(100 * recall[some], 100 * precision[some], color=color(line))
            if listing:
                axes.plot(100 * numbers["recall"], 100 * numbers["precision"], "o",
                          color=color(line))
        axes.set(xlabel="recall, %", ylabel="precision, %", xlim=(0, 102), ylim=(0, 102))

    words = ("Drop the most suspicious images first: how many of the dropped are noise "
             "(precision), and how much of the noise is dropped (recall)? Each kind is measured "
             "against the clean images; a random order has the kind's share as average precision.")
    if listing:
        words += (f" The dots, and the two last columns, are the noise list: {listed.sum():,} of "
                  f"{len(listed):,} images.")
    return join(
        tag("p", words), page.legend([row[0] for row in rows]),
        tag("div",
            tag("div", page.chart(draw, "precision over recall", (4.2, 3.1)), class_="beside"),
            page.table(["noise", "images", "share, %", "average precision, %", "precision, %",
                        "recall, %"][:6 if listing else 4],
                       [[tag("td", cell) for cell in row[:6 if listing else 4]] for row in rows]),
            class_="sides"))


def confusable_pairs(run: Run) -> Optional[Html]:
    """Pairs of tail identities whose centres are closest, by the last row's model.

    Looks at one bag of the recipe: 3,600 images, whatever the size of the tail.
    """
    directory = run.tail
    row = next((row for row in reversed(run.rows) if row.get("model")), None)
    if not directory or row is None:
        return None
    with RecordSet(directory) as records:
        if len(records.identity_ranges) < 2:
            return None
        bag = tail.draw_bags(records.identity_ranges, TAIL_IMAGES, TAIL_BAG, 1,
                             np.random.RandomState(run.facts.get("seed", 0)))
        embeddings, _ = run.embedder(row, records).embed(records, bag.keys, label="tail")
        identities, centers = mining.identity_centers(embeddings, bag.identities)
        unit = centers / np.linalg.norm(centers, axis=1, keepdims=True)
        cards = []
        closest = list(islice(mining.closest_pairs(centers), PAIRS))
        # Chosen by distance, as step 4 does; shown by the cosine that stands below them.
        for one, other in sorted(closest, key=lambda pair: -(unit[pair[0]] @ unit[pair[1]])):
            sides = [_identity(records, bag.keys[bag.identities == identities[index]])
                     for index in (one, other)]
            cards.append(tag("article", tag("div", *sides, class_="faces"),
                             tag("p", f"cosine {unit[one] @ unit[other]:.3f}")))
    median = np.median((unit @ unit.T)[np.triu_indices(len(unit), 1)])
    return join(
        tag("p", "The pairs of tail identities whose centres are closest in the embedding of "
                 f"“{row['name']}”, the ones that step 4 chooses to drive apart; the cosine is "
                 f"that of the two centres. Between all of the {len(unit):,} identities looked at, "
                 f"the median is {median:.3f}."),
        tag("div", *cards, class_="cards pairs"))


def _identity(records: RecordSet, keys: np.ndarray) -> Html:
    """The images of one identity, and its number."""
    label, pictures = None, Html()
    for key in keys:
        label, data = records.image(key)
        pictures = join(pictures, page.picture(
            data, f"{records.path}: record {key}", f"image {key}"))
    return page.figure(tag("div", pictures, class_="row"), f"identity {label}")


def embedding_map(run: Run) -> Optional[Html]:
    """Where the pictures of a few people of the head lie: the embedding's two main directions."""
    row = next((row for row in reversed(run.rows) if row.get("model")), None)
    if not run.head or row is None:
        return None
    truth = _truth(run)
    with RecordSet(run.head) as records:
        keys, ends = copying.keys_by_identity(records)
        groups = np.split(keys, ends[:-1])[:page.LINES]
        groups = [group[:MAP_IMAGES] for group in groups]
        if len(groups) < 2:
            return None
        labels = [records.image(int(group[0]))[0] for group in groups]
        shown = np.concatenate(groups)
        features, _ = run.embedder(row, records).embed(records, shown, label="map")
    features = features - features.mean(axis=0)
    # The signs of singular vectors are arbitrary: the largest entry is made positive.
    _, spread, axes = np.linalg.svd(features, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][np.arange(2), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    points = features @ axes.T
    wrong = np.array([truth.get(int(key), (0, "clean"))[1] != "clean" for key in shown])

    def draw(plot: Any, color: Any) -> None:
        start = 0
        for line, (group, label) in enumerate(zip(groups, labels)):
            part = slice(start, start + len(group))
            start += len(group)
            for marker, chosen in (("o", ~wrong[part]), ("x", wrong[part])):
                plot.scatter(*points[part][chosen].T, marker=marker, s=14, color=color(line))
            plot.annotate(str(label), np.median(points[part], axis=0), color=color(line),
                          fontsize=11, fontweight="bold")
        plot.set(xticks=[], yticks=[])

    share = (spread[:2] ** 2).sum() / max((spread ** 2).sum(), 1e-12)
    words = (f"The first {len(groups)} people of the head in the embedding of “{row['name']}”, up "
             f"to {MAP_IMAGES} pictures each: the two directions in which these pictures differ "
             f"most (principal components, {share:.0%} of all variance). A number is a label, at "
             "the middle of its pictures.")
    if truth:
        words += " A cross is a picture whose label is wrong in truth."
    return join(tag("p", words), tag("div", page.chart(draw, "map of embeddings", (5, 4)),
                                     class_="map"))
