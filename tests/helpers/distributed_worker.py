"""What tests/test_distributed.py starts: steps 2, 3.1, 3.2 and 4, a few batches each.

    python distributed_worker.py DATA OUT [FLAG ...]

In one process because four times two workers would spend their time importing MXNet.
"""
import os
import pickle
import runpy
import sys
from pathlib import Path
from typing import List

from unequal.cluster import workers as distributed
from unequal.commands import cli
from unequal.training import config, setup
from unequal.training import flags as options

ROOT = Path(__file__).parent.parent.parent
# Without dropout, whose random numbers two CPU contexts of one process share.
# Templates for str.format: {data} and {out} are known only when a worker starts.
COMMON = ("--network n8 --version-output I --emb-size 16 --margin-s 16 --target lfw --verbose 3 "
          "--cutoff 3 --eval-dir {data}/eval_dataset --data-dir {data}/MF2_pic9_head")
STEPS = (
    ("train_softmax.py", "--per-batch-size 8 --max-steps 6 --prefix {out}/step2/model"),
    ("train_relusoft_savemodel.py",
     "--per-batch-size 8 --end-epoch 1 --noise-beta 0.9 --lr 0.01 "
     "--pretrained {out}/step2/model,0 --prefix {out}/step31/model"),
    ("train_relusoft.py",
     "--per-batch-size 8 --max-steps 6 --noise-beta 0.9 --lr 0.01 --noise-threshold 0.2 "
     "--pretrained {out}/step31/model,0 --prefix {out}/step32/model"),
    ("train_unequal.py",
     "--data-dir-interclass {data}/MF2_pic9_tail --batch-size1 12 --batchsize_id 12 --bag-size 30 "
     "--bags 4 --interweight 1,5 --max-steps 6 --lr 0.001 --pretrained {out}/step32/model,0 "
     "--prefix {out}/step4/model"),
)


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mknod, (self.path,)


def main(data, out, *flags):
    workers: List[distributed.Workers] = []

    def once(store, threshold):  # the processes of a job take their places once
        if not workers:
            workers.append(distributed.Workers(store, threshold))
        return workers[0]

    vars(setup)["Workers"] = once
    for name, arguments in STEPS:
        module = runpy.run_path(str(ROOT / name))
        line = (COMMON + " " + arguments).format(data=data, out=out).split()
        args = options.parser("", module["Config"]).parse_args(line + list(flags))
        module["main"](config.from_options(module["Config"], args))
    everyone = workers[0]
    if everyone.count == 1:
        return
    if everyone.rank == 0:  # as anybody could who reaches the server's port
        everyone._kvstore._send_command_to_servers(
            0, pickle.dumps(Touch(os.path.join(out, "touched")), 0).decode())
    everyone.wait()
    value = distributed.mx.nd.ones((3,)) * (everyone.rank + 1)
    everyone._sum("after", [value])
    gathered = everyone.gather(everyone.rank * 100 + everyone.rank)
    if everyone.rank == 0:
        print("sum", value.asnumpy().tolist(), "gathered", gathered.tolist(), "told",
              everyone.broadcast({"list": [0.1, "x" * 300]})["list"][0])
    else:
        everyone.broadcast(None)


if __name__ == "__main__":
    cli.setup_logging(sys.stdout)
    sys.exit(cli.report_errors(lambda: main(*sys.argv[1:]), debug=True))
