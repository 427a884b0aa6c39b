"""Step 2 of the recipe: ArcFace (or another margin) on the head identities.

    CUDA_VISIBLE_DEVICES='0,1' python -u train_softmax.py --network r50 --loss-type 4 \\
        --margin-m 0.5 --data-dir ./MF2_pic9_head/ --end-epoch 40 --per-batch-size 100 \\
        --prefix ../models/r50_arc_pic9/model 2>&1 | tee r50_arc_pic9.log
"""
import sys

from unequal.commands import cli
from unequal.commands.train import softmax as main
from unequal.training.config import SoftmaxConfig as Config

if __name__ == "__main__":
    sys.exit(cli.run_script(main, Config, __doc__))
