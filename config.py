"""Settings in the manner of InsightFace's config.py: copy it, edit it, and give it to a script.

    python -u train_softmax.py --config config.py --prefix ../models/r50_arc_pic9/model

The command line wins over `config`, which wins over the presets of the data set and the network
chosen here. Names are those of the flags (docs/flags.md) with underscores.
"""
from easydict import EasyDict as edict

# What goes with a network, chosen by config.network or --network.
network = edict()
network.r50 = edict(emb_size=512, version_output="E")
network.r18 = edict(emb_size=512, version_output="E")
network.n8 = edict(emb_size=128, margin_s=32.0)

# What goes with a data set, chosen by config.dataset.
dataset = edict()
dataset.mf2_head = edict(data_dir="./MF2_pic9_head/", target="lfw,cfp_fp,agedb_30",
                         per_batch_size=100)
dataset.mf2_unequal = edict(data_dir="./MF2_pic9_head_denoise/",
                            data_dir_interclass="./MF2_pic9_tail/",
                            batch_size1=360, batchsize_id=360, batch_size2=40)

config = edict()
config.network = "r50"
config.dataset = "mf2_head"
config.loss_type = 4
config.margin_m = 0.5
