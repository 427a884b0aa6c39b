"""Step 3.1 of the recipe: the ArcFace model saved anew with the NRA head, as PREFIX-0000.

    CUDA_VISIBLE_DEVICES='0,1' python -u train_relusoft_savemodel.py --network r50 --loss-type 4 \\
        --margin-m 0.5 --data-dir ./MF2_pic9_head/ --end-epoch 1 --lr 0.01 --per-batch-size 100 \\
        --noise-beta 0.9 --prefix ../models/NRA_r50pic9/model_t --bin-dir ../insightface/src/ \\
        --pretrained ../models/r50_arc_pic9/model,xx 2>&1 | tee NRA_r50pic9_savemodel.log

Keeps the classifier, trains one batch, saves and ends by itself.
"""
import sys

from unequal.commands import cli
from unequal.commands.train import relusoft_savemodel as main
from unequal.training.config import NraConfig as Config

if __name__ == "__main__":
    sys.exit(cli.run_script(main, Config, __doc__))
