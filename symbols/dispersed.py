"""Step 4's head: noise-robust loss for the head part, center-dispersed loss for the tail part."""
import mxnet as mx

from unequal.symbols.margins import Margin, margin_logits
from unequal.symbols.nra import check, composed_loss, robust_outputs, weight_rows


def centers(embedding, identities, images_per_identity):
    """L2-normalised mean of each identity's L2-normalised embeddings.

    Rows come identity by identity: (identities * images_per_identity, D) to (identities, D).
    """
    unit = mx.sym.L2Normalization(embedding, mode="instance")
    grouped = mx.sym.reshape(unit, shape=(identities, images_per_identity, -1))
    return mx.sym.L2Normalization(mx.sym.mean(grouped, axis=1), mode="instance")


def center_dispersed_loss(embedding, identities, images_per_identity, interweight):
    """``interweight * mean((C C^T - I)^2)`` over the centres C: the center-dispersed loss.

    Returns
    -------
    loss, cosines : mxnet.symbol.Symbol
        ``tail_loss`` (1,), whose gradient it is, and the squared cosines (identities, identities)
        with the diagonal taken out.
    """
    center = centers(embedding, identities, images_per_identity)
    cosines = mx.sym.dot(center, center, transpose_b=True) - mx.sym.eye(identities)
    squares = mx.sym.square(cosines)
    # MakeLoss's gradient is 1 for each element of its input: mean() makes that one number.
    loss = mx.sym.MakeLoss(interweight * mx.sym.mean(squares), name="tail_loss")
    return loss, squares


def unequal_head(embedding, label, num_classes, embedding_size, margin=Margin(), *, head_size,
                 tail_identities, images_per_identity, interweight, beta, normalizer,
                 threshold=0.0, composed=False, on_cpu=True):
    """Step 4's training symbol. No classifier weight exists for tail identities.

    Parameters
    ----------
    embedding, label : mxnet.symbol.Symbol
        Of one device: ``head_size`` rows of head images, then ``images_per_identity`` consecutive
        rows of each of ``tail_identities`` tail identities.
    interweight : float
        Weight of the center-dispersed loss (``--interweight``).
    beta : float
        As in step 3; 1 is plain cross-entropy (``--noise 0``).
    normalizer : float
        Divides the summed head loss: half the head batch over all devices in the reference
        (train_debug_soft_gs.py).
    num_classes, embedding_size, margin, threshold
        As for :func:`unequal.symbols.nra.nra_head`; but loss type 0 too sees the embedding
        normalised, as in the reference's step 4.
    composed : bool
        Of standard operators only, with the outputs ``embedding``, ``loss`` and ``tail_loss``, as
        for :func:`unequal.symbols.nra.nra_head`.
    on_cpu : bool
        As for :func:`unequal.symbols.nra.nra_head`.

    Returns
    -------
    mxnet.symbol.Symbol
        The outputs of :func:`unequal.symbols.nra.nra_head` for the head part (``embedding`` has
        all rows), and ``head_label`` (head_size,), ``tail_label``, ``tail_loss`` (1,),
        ``tail_cosines``, the squared cosines between tail centres without the diagonal.
    """
    check(beta, threshold)
    tail_size = tail_identities * images_per_identity

    def part(symbol, begin, end):
        return mx.sym.slice_axis(symbol, axis=0, begin=begin, end=end)

    head_label = part(label, 0, head_size)
    head = part(embedding, 0, head_size)
    if margin.loss_type == 0:
        head = mx.sym.L2Normalization(head, mode="instance")
    logits = margin_logits(head, head_label, num_classes, embedding_size, margin,
                           weight_rows(on_cpu, composed))
    tail_loss, squares = center_dispersed_loss(
        part(embedding, head_size, head_size + tail_size), tail_identities, images_per_identity,
        interweight)
    embedding = mx.sym.BlockGrad(embedding, name="embedding")
    if composed:
        return mx.sym.Group([
            embedding, composed_loss(logits, head_label, beta, normalizer, threshold), tail_loss])
    return mx.sym.Group(
        [embedding]
        + robust_outputs(logits, head_label, beta, normalizer, threshold)
        + [tail_loss,
           mx.sym.BlockGrad(head_label, name="head_label"),
           mx.sym.BlockGrad(part(label, head_size, head_size + tail_size), name="tail_label"),
           mx.sym.BlockGrad(squares, name="tail_cosines")])
