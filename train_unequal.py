"""Step 4 of the recipe: head and tail identities in one batch, the tail without a classifier.

    CUDA_VISIBLE_DEVICES='0,1,2,3,4,5,6,7' python -u train_unequal.py --network r50 \\
        --loss-type 4 --data-dir ./MF2_pic9_head_denoise/ \\
        --data-dir-interclass ./MF2_pic9_tail/ --end-epoch 100000 --lr 0.001 --interweight 1 \\
        --bag-size 3600 --batch-size1 360 --batchsize_id 360 --batch-size2 40 \\
        --pretrained ../models/NRA_r50pic9/model,xx --prefix ../models/model_all/model

`--interweight 1,5,10` raises the weight by itself: a weight ends when verification no longer rises
(--patience; after 5,000 batches at the earliest by default: 100 verifications of 50); the next
starts from the best model so far. Checkpoints of a weight w of such a list are
PREFIX_ww-NNNN.params. --resume skips the weights that have ended.
"""
import sys

from unequal.commands import cli
from unequal.commands.train import unequal as main
from unequal.training.config import UnequalConfig as Config

if __name__ == "__main__":
    sys.exit(cli.run_script(main, Config, __doc__))
