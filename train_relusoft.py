"""Step 3.2 of the recipe: training with the noise-robust loss (NRA). `sh NRA.sh` calls it.

    CUDA_VISIBLE_DEVICES='0,1' python -u train_relusoft.py --network r50 --loss-type 4 \\
        --margin-m 0.5 --data-dir ./MF2_pic9_head/ --lr 0.01 --lr-steps 50000,90000 \\
        --per-batch-size 100 --noise-beta 0.9 --prefix ../models/NRA_r50pic9/model \\
        --bin-dir ./src/ --pretrained ../models/NRA_r50pic9/model_t,0

Images that look like nobody are listed in BIN_DIR/0_noiselist.txt and left out; the classifier of
the pretrained model is dropped and learned again.
"""
import sys

from unequal.commands import cli
from unequal.commands.train import relusoft as main
from unequal.training.config import RelusoftConfig as Config

if __name__ == "__main__":
    sys.exit(cli.run_script(main, Config, __doc__))
