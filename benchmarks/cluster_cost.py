"""Two workers of one thread each compared with one: images a second, bytes on the network.

    python benchmarks/cluster_cost.py [--network r18] [--classes 1000] [--batch 8] [--steps 2]
                                      [--rounds 1]
    python benchmarks/cluster_cost.py --network r50 --batch 16 --rounds 2     as in docs/cluster.md
    python benchmarks/cluster_cost.py --project     computed for hosts of 8 GPUs

A step is forward, backward and update (SGD with momentum, ArcFace head) on random pictures. Every
round starts new processes:

- alone: one process, no KVStore;
- ours: two workers and a server that sums the gradients; the workers update the weights, as with
  --kv-store dist_sync;
- server: MXNet's default, the server updates the weights (and refuses to save its momentum);
- 2-bit: ours with --compress-gradients.

Bytes are those that the loopback interface carries during the steps, including the traffic of other
programs.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

KINDS = ("alone", "ours", "server", "2-bit")
EMBEDDING, SIZE = 512, 112
LINKS = (1, 10, 25, 100)  # Gb/s
# Images a second of a host with 8 GPUs. The first rate is in the authors' log and was limited by
# decoding; the second is assumed (350 a GPU).
HOSTS = (("390 (the authors' log, bound by decoding)", 390), ("2,800 (assumed)", 2800))


def network(name: str, classes: int) -> Any:
    import mxnet as mx

    from unequal.symbols import heads, networks

    return heads.softmax_head(networks.get_symbol(name, EMBEDDING),
                               mx.sym.Variable("softmax_label"), classes, EMBEDDING)


def gradient_bytes(symbol: Any) -> int:
    """Bytes of all float32 gradients; a worker sends and receives as many in each step."""
    import numpy as np

    shapes = symbol.infer_shape(data=(8, 3, SIZE, SIZE), softmax_label=(8,))[0]
    return 4 * sum(int(np.prod(shape)) for name, shape in zip(symbol.list_arguments(), shapes)
                   if name not in ("data", "softmax_label"))


def loopback_bytes() -> int:
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line)
    return int(line.split(":")[1].split()[0])


def work(options: argparse.Namespace) -> None:
    """Run ``--steps`` steps as one worker; worker 0 prints seconds and bytes a step as JSON."""
    import warnings

    from unequal.cluster.workers import Workers, mx, np

    symbol = network(options.network, options.classes)
    workers = Workers("device" if options.kind == "alone" else "dist_sync",
                      0.01 if options.kind == "2-bit" else 0.0)
    workers.leave_together(True)
    module = mx.mod.Module(symbol)
    shapes = ([("data", (options.batch, 3, SIZE, SIZE))],
              [("softmax_label", (options.batch,))])
    module.bind(*shapes)
    mx.random.seed(0)
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2))
    on_server = options.kind == "server"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = mx.optimizer.SGD(learning_rate=0.01, momentum=0.9,
                                     rescale_grad=1.0 / workers.count)
        optimizer.aggregate_num = 1
        module.init_optimizer(kvstore=workers._kvstore if on_server else None,
                              optimizer=optimizer)
    random = np.random.RandomState(workers.rank)
    batch = mx.io.DataBatch([mx.nd.array(random.randint(0, 256, shapes[0][0][1]))],
                            [mx.nd.array(random.randint(options.classes, size=options.batch))])

    def step() -> None:
        module.forward_backward(batch)
        if not on_server:
            workers.sum_gradients(module)
        module.update()
        mx.nd.waitall()

    step()  # warm-up: also tells the servers which arrays there are
    workers.wait()
    start, processor, before = time.time(), time.process_time(), loopback_bytes()
    for _ in range(options.steps):
        step()
    workers.wait()
    if workers.rank == 0:
        print(json.dumps({"seconds": (time.time() - start) / options.steps,
                          "cpu": (time.process_time() - processor) / options.steps,
                          "bytes": (loopback_bytes() - before) / options.steps}))


def measure(options: argparse.Namespace, kind: str) -> Dict[str, float]:
    """Run one round of ``kind``: seconds, processor seconds and bytes a step."""
    from unequal.cluster import job as launch

    command = [sys.executable, __file__, "--kind", kind]
    for name in ("network", "classes", "batch", "steps"):
        command += ["--" + name, str(getattr(options, name))]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if kind == "alone":
        return json.loads(subprocess.check_output(command, env=environment))
    port, = launch.free_ports(launch.LOOPBACK, 1)
    environment.update(DMLC_PS_ROOT_URI=launch.LOOPBACK, DMLC_PS_ROOT_PORT=str(port),
                       DMLC_NUM_WORKER="2", DMLC_NUM_SERVER="1", DMLC_NODE_HOST=launch.LOOPBACK)
    # Not `unequal launch`: its servers would refuse the optimizer that `server` sends.
    serve = [sys.executable, "-c", "import numpy; numpy.bool = bool; import mxnet"]
    others = [subprocess.Popen(serve if role != "worker" else command,
                               env=dict(environment, DMLC_ROLE=role), stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
              for role in ("scheduler", "server", "worker", "worker")]
    printed = b"".join(process.communicate()[0] for process in others)
    return json.loads(printed)


def compare(options: argparse.Namespace) -> None:
    import unequal  # noqa: F401

    size = gradient_bytes(network(options.network, options.classes))
    # Each of two workers sends and receives all gradients; compressed, it sends a sixteenth.
    expected = {"alone": 0, "ours": 4 * size, "server": 4 * size, "2-bit": (2 + 2 / 16) * size}
    rounds: Dict[str, List[Dict[str, float]]] = {kind: [] for kind in KINDS}
    for number in range(1, options.rounds + 1):
        for kind in KINDS:
            rounds[kind].append(measure(options, kind))
        figures = ", ".join(f"{kind} {rounds[kind][-1]['seconds']:.2f} s" for kind in KINDS)
        print(f"round {number} (load {os.getloadavg()[0]:.1f}): {figures}", flush=True)
    print(f"{options.network}, {options.classes} classes, {options.batch} images a worker and step")
    print(f"{'':8s}{'images/s':>12s}{'of alone':>12s}{'CPU s/step (worker)':>20s}{'MB a step':>14s}"
          f"{'by arithmetic':>16s}")
    alone = [options.batch / one["seconds"] for one in rounds["alone"]]
    for kind in KINDS:
        count = 1 if kind == "alone" else 2
        rates = [count * options.batch / one["seconds"] for one in rounds[kind]]
        share = statistics.median(rate / one for rate, one in zip(rates, alone))
        cpu, sent = (statistics.median(one[what] for one in rounds[kind])
                     for what in ("cpu", "bytes"))
        print(f"{kind:8s}{statistics.median(rates):12.2f}{share:12.2f}{cpu:20.2f}"
              f"{sent / 1e6:14.1f}{expected[kind] / 1e6:16.1f}")


def project(options: argparse.Namespace) -> None:
    """Print computed network times for 8 hosts, each with one server and one worker of 8 GPUs."""
    import unequal  # noqa: F401

    hosts = 8
    size = gradient_bytes(network("r50", 96499))
    classifier = 4 * 96499 * EMBEDDING
    each_way = 2 * size * (hosts - 1) / hosts
    print(f"r50, 96,499 classes: gradients of {size / 1e6:.0f} MB, {classifier / 1e6:.0f} MB of "
          "them the classifier's")
    print(f"a step: each host sends and receives {each_way / 1e6:.0f} MB "
          f"({each_way * (1 + 1 / 16) / 2 / 1e6:.0f} MB with 2-bit gradients)")
    for text, rate in HOSTS:
        print(f"a host of 8 GPUs computing {text} images/s, 100 a GPU and step: {800 / rate:.2f} s "
              "a step")
        for link in LINKS:
            seconds = each_way * 8 / link / 1e9
            print(f"  {link:3d} Gb/s: {seconds:5.2f} s on the wire, "
                  f"{100 * seconds * rate / 800:3.0f} % of computing; 2-bit "
                  f"{seconds * (1 + 1 / 16) / 2:5.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="r18")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--project", action="store_true")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        work(options)
    elif options.project:
        project(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
