import json

import mxnet as mx
import numpy as np
import pytest

from helpers.loops import assert_close, cases, recorded, run
from unequal.symbols import fresnet, networks

# network -> (convolutions with a 3x3 or 1x1 kernel on the main path, channels of the last stage).
# The number in a name is those and the fully connected layer, except where a unit has three
# convolutions and the name counts two (r124), or the name is one off (r49).
DEPTHS = {
    "r18": (17, 512), "r34": (33, 512), "r49": (49, 512), "r50": (49, 512), "r74": (73, 512),
    "r90": (89, 512), "r100": (99, 512), "r101": (100, 2048), "r124": (184, 2048),
    "r152": (151, 2048), "r200": (199, 2048), "r269": (268, 2048), "n8": (7, 64),
}


def shapes(symbol, **data):
    """Shapes of arguments (without the inputs), of states, and of the output."""
    arguments, outputs, states = symbol.infer_shape(**data)
    named = dict(zip(symbol.list_arguments(), arguments))
    for name in data:
        named.pop(name)
    return named, dict(zip(symbol.list_auxiliary_states(), states)), outputs[0]


def draw(symbol, data, seed=0):
    """Plausible parameters and states: slopes near 0.25, scales near 1, weights of He's size."""
    random = np.random.RandomState(seed)
    arguments, states, _ = shapes(symbol, data=data.shape)
    values = {}
    for name, shape in {**arguments, **states}.items():
        v = random.randn(*shape)
        values[name] = np.float32(
            0.25 + 0.3 * v if "relu" in name and name.endswith("gamma")
            else 1 + 0.1 * abs(v) if name.endswith(("gamma", "var"))
            else 0.1 * v if len(shape) == 1
            else v * np.sqrt(2 / np.prod(shape[1:])))
    return values


def forward_backward(symbol, values, data, head_gradient):
    """Output and gradients of a whole network, in training mode (without its dropout)."""
    arguments = {name: mx.nd.array(data if name == "data" else values[name])
                 for name in symbol.list_arguments()}
    gradients = {name: mx.nd.zeros_like(value) for name, value in arguments.items()}
    states = {name: mx.nd.array(values[name]) for name in symbol.list_auxiliary_states()}
    executor = symbol.bind(mx.cpu(), arguments, gradients, aux_states=states)
    executor.forward(is_train=True)
    executor.backward([mx.nd.array(head_gradient)])
    return (executor.outputs[0].asnumpy(),
            {name: value.asnumpy() for name, value in gradients.items()},
            {name: value.asnumpy() for name, value in states.items()})


def test_table_of_depths_is_complete():
    assert set(fresnet.NETWORKS) == set(DEPTHS)


@pytest.mark.parametrize("network", DEPTHS)
def test_every_depth_builds(network):
    symbol = networks.get_symbol(network)
    arguments, states, output = shapes(symbol, data=(2, 3, 112, 112))
    assert symbol.list_outputs() == ["fc1_output"] and output == (2, 512)
    convolutions, channels = DEPTHS[network]
    weights = [name for name in arguments if "conv" in name and name.endswith("_weight")
               and not name.endswith("sc_weight")]
    assert len(weights) == convolutions
    assert arguments["bn1_gamma"] == (channels,)
    # conv0 keeps the size, each stage halves it.
    side = 7 if network != "n8" else 14
    assert arguments["pre_fc1_weight"] == (512, channels * side * side)
    assert set(states) == {name[:-len("gamma")] + state for name in arguments
                           if name.endswith("_gamma") and "relu" not in name
                           for state in ("moving_mean", "moving_var")}


def test_channels_of_the_small_network_suit_onednn():
    assert all(filters % 16 == 0 for filters in fresnet.NETWORKS["n8"].filters)
    arguments, _, output = shapes(networks.get_symbol("n8", 64), data=(2, 3, 32, 32))
    assert output == (2, 64)
    channels = {shape[0] for name, shape in arguments.items() if "conv" in name}
    assert channels == {16, 32, 64}


@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("name", cases("net_"))
def test_recorded_names_and_shapes(name, depthwise):
    settings, arrays = recorded(name)
    symbol = networks.get_symbol(name[len("net_"):], depthwise_prelu=depthwise)
    shape = tuple(settings["args"]["data"])
    arguments, states, _ = shapes(symbol, data=shape)
    expected = {key: tuple(value) for key, value in settings["args"].items() if key != "data"}
    assert arguments == expected
    assert states == {key: tuple(value) for key, value in settings["aux"].items()}
    assert symbol.list_outputs() == settings["output"]
    # The recorded output itself: test_parity.py, which runs these networks.
    assert arrays["fc1"].shape == (2, 512)


@pytest.mark.parametrize("network", ["n8", "r101"])
def test_squeeze_excite_adds_two_convolutions_a_unit(network):
    plain, _, _ = shapes(networks.get_symbol(network), data=(1, 3, 64, 64))
    with_se, states, output = shapes(networks.get_symbol(network, version_se=1),
                                     data=(1, 3, 64, 64))
    assert output == (1, 512)
    added = set(with_se) - set(plain)
    units = sum(fresnet.NETWORKS[network].units)
    assert set(plain) < set(with_se) and len(added) == 5 * units
    channels = fresnet.NETWORKS[network].filters[1]
    unit = "stage1_unit1_se_"
    assert {name: with_se[name] for name in added if name.startswith(unit)} == {
        unit + "conv1_weight": (channels // 16, channels, 1, 1),
        unit + "conv1_bias": (channels // 16,),
        unit + "relu1_gamma": (channels // 16,),
        unit + "conv2_weight": (channels, channels // 16, 1, 1),
        unit + "conv2_bias": (channels,)}
    assert not [name for name in states if "_se_" in name]


@pytest.mark.parametrize("version, kernel, side", [(0, 7, 4), (1, 3, 8)])
def test_input_versions(version, kernel, side):
    symbol = networks.get_symbol("n8", version_input=version)
    arguments, _, _ = shapes(symbol, data=(1, 3, 64, 64))
    assert arguments["conv0_weight"] == (16, 3, kernel, kernel)
    assert arguments["pre_fc1_weight"] == (512, 64 * side * side)  # version 0 halves once more


def test_input_version_0_pools_and_then_keeps_the_size():
    """The reference: 7x7 of stride 2, 3x3 max-pooling of stride 2, stage 1 of stride 1."""
    internals = networks.get_symbol("r18", version_input=0).get_internals()

    def side(name):
        _, found, _ = internals[name + "_output"].infer_shape(data=(1, 3, 112, 112))
        return found[0][2]

    assert [side(name) for name in ("conv0", "relu0", "pool0", "stage1_unit1_conv2",
                                    "stage1_unit1_sc", "stage2_unit1_sc", "stage4_unit2_bn3")] == [
        56, 56, 28, 28, 28, 14, 4]
    nodes = {node["name"]: node for node in json.loads(internals.tojson())["nodes"]}
    assert nodes["pool0"]["attrs"] == {
        "kernel": "(3, 3)", "pad": "(1, 1)", "pool_type": "max", "stride": "(2, 2)"}


def test_gap_ignores_the_activation_as_the_reference_does():
    arguments, _, _ = shapes(networks.get_symbol("n8", version_act="relu", version_output="GAP"),
                             data=(1, 3, 32, 32))
    assert arguments["relu1_gamma"] == (64,) and "relu0_gamma" not in arguments


def test_pixels_are_normalised_inside():
    symbol = networks.get_symbol("n8", 16).get_internals()["conv0_output"]
    data = np.random.RandomState(0).randint(0, 256, (1, 3, 8, 8)).astype(np.float32)
    weight = np.zeros((16, 3, 3, 3), np.float32)
    for channel in range(3):
        weight[channel, channel, 1, 1] = 1
    outputs, _ = run(symbol, {"data": data, "conv0_weight": weight}, ["data", "conv0_weight"],
                     [np.zeros((1, 16, 8, 8))])
    assert_close(outputs["conv0"][:, :3], (data - 127.5) / 128, 1e-6)


# Which parameters stand between the features (64 channels, 4 x 4) and the embedding.
BN1 = {"bn1_gamma": (64,), "bn1_beta": (64,)}
FC1 = {"fc1_weight": (10, 1024), "fc1_bias": (10,)}
PRE = {"pre_fc1_weight": (10, 1024), "pre_fc1_bias": (10,), "fc1_gamma": (10,), "fc1_beta": (10,)}
POOLED = {**BN1, "relu1_gamma": (64,), "pre_fc1_weight": (10, 64), "pre_fc1_bias": (10,)}
OUTPUT_PARAMETERS = {
    "E": {**BN1, **PRE}, "F": {**BN1, **FC1}, "G": {**BN1, **FC1}, "H": FC1,
    "I": {**BN1, **PRE}, "FC": POOLED, "J": PRE, "GAP": POOLED,
}


def test_output_table_is_complete():
    assert set(fresnet.OUTPUTS) == set(OUTPUT_PARAMETERS)


@pytest.mark.parametrize("output", OUTPUT_PARAMETERS)
def test_output_types(output):
    symbol = networks.get_symbol("n8", 10, version_output=output)
    arguments, _, shape = shapes(symbol, data=(4, 3, 32, 32))
    assert symbol.list_outputs() == ["fc1_output"] and shape == (4, 10)
    ends = {name: value for name, value in arguments.items()
            if not name.startswith(("stage", "conv0", "bn0", "relu0"))}
    assert ends == OUTPUT_PARAMETERS[output]
    operators = [node for node in symbol.get_internals().list_outputs() if "dropout" in node]
    assert bool(operators) == (output in ("E", "F"))


@pytest.mark.parametrize("depthwise", [True, False])
def test_fixed_scale_of_the_embedding(depthwise):
    """fc1 is a BatchNorm whose gamma counts as 1, whatever a checkpoint holds."""
    data = np.random.RandomState(1).randint(0, 256, (4, 3, 32, 32)).astype(np.float32)
    symbol = networks.get_symbol("n8", 10, version_output="I", depthwise_prelu=depthwise)
    values = draw(symbol, data)
    out, gradients, _ = forward_backward(symbol, values, data, np.ones((4, 10)))
    other, _, _ = forward_backward(symbol, dict(values, fc1_gamma=values["fc1_gamma"] * 3), data,
                                   np.ones((4, 10)))
    np.testing.assert_array_equal(out, other)
    assert (gradients["fc1_gamma"] == 0).all() and (gradients["bn1_gamma"] != 0).any()


def test_relu_has_no_slopes():
    plain, _, _ = shapes(networks.get_symbol("n8", version_act="relu"), data=(1, 3, 32, 32))
    prelu, _, _ = shapes(networks.get_symbol("n8"), data=(1, 3, 32, 32))
    assert set(prelu) - set(plain) == {name for name in prelu if "relu" in name}
    # relu is PReLU with slopes of 0.
    data = np.random.RandomState(2).randint(0, 256, (2, 3, 32, 32)).astype(np.float32)
    symbols = [networks.get_symbol("n8", 10, version_output="I", version_act=act)
               for act in ("relu", "prelu")]
    values = draw(symbols[1], data)
    for name in values:
        if "relu" in name:
            values[name][:] = 0
    relu, prelu = (forward_backward(symbol, values, data, np.ones((2, 10)))[0]
                   for symbol in symbols)
    assert_close(relu, prelu, 1e-5)


def test_both_prelus_make_the_same_network():
    data = np.random.RandomState(1).randint(0, 256, (4, 3, 32, 32)).astype(np.float32)
    head_gradient = np.random.RandomState(2).randn(4, 16)
    depthwise, plain = (
        networks.get_symbol("n8", 16, version_se=1, version_output="GAP", depthwise_prelu=choice)
        for choice in (True, False))
    assert plain.list_arguments() == depthwise.list_arguments()
    assert plain.list_auxiliary_states() == depthwise.list_auxiliary_states()
    values = draw(plain, data)
    first, second = (forward_backward(symbol, values, data, head_gradient)
                     for symbol in (depthwise, plain))
    assert_close(first[0], second[0], 1e-5)
    # Biases before a BatchNorm and the fixed gamma have a gradient of 0 but for rounding.
    largest = max(np.abs(gradient).max() for gradient in second[1].values())
    compared = 0
    for name, gradient in second[1].items():
        if np.abs(gradient).max() < 1e-6 * largest:
            continue
        assert_close(first[1][name], gradient, 1e-3)
        compared += "relu" in name
    assert compared >= 8  # slopes of conv0, three units, their gates, and the pooled features
    for name, state in second[2].items():
        assert_close(first[2][name], state, 1e-5)


@pytest.mark.parametrize("saved_as", [True, False])
def test_checkpoints_are_exchangeable(saved_as, tmp_path):
    data = np.random.RandomState(1).randint(0, 256, (2, 3, 32, 32)).astype(np.float32)
    outputs = []
    for choice in (saved_as, not saved_as):
        symbol = networks.get_symbol("n8", 16, depthwise_prelu=choice)
        module = mx.mod.Module(symbol, label_names=None)
        module.bind([("data", data.shape)], for_training=False)
        if choice is saved_as:
            module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2))
            module.save_checkpoint(str(tmp_path / "model"), 3)
        else:
            _, arg_params, aux_params = mx.model.load_checkpoint(str(tmp_path / "model"), 3)
            module.set_params(arg_params, aux_params)  # refuses missing and extra names
        module.forward(mx.io.DataBatch([mx.nd.array(data)]))
        outputs.append(module.get_outputs()[0].asnumpy())
    assert_close(outputs[1], outputs[0], 1e-5)


@pytest.mark.parametrize("depthwise", [True, False])
def test_slopes_start_at_a_quarter(depthwise):
    module = mx.mod.Module(networks.get_symbol("n8", 16, version_se=1, depthwise_prelu=depthwise),
                           label_names=None)
    module.bind([("data", (2, 3, 32, 32))])
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2))
    found = {name: value.asnumpy() for name, value in module.get_params()[0].items()
             if "relu" in name}
    assert len(found) == 7
    for value in found.values():
        np.testing.assert_array_equal(value, np.float32(0.25))


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_momentum_of_the_moving_averages(momentum):
    data = np.random.RandomState(1).randint(0, 256, (4, 3, 32, 32)).astype(np.float32)
    symbol = networks.get_symbol("n8", 10, version_output="I", bn_momentum=momentum)
    values = draw(symbol, data)
    _, _, states = forward_backward(symbol, values, data, np.ones((4, 10)))
    conv0, _ = run(symbol.get_internals()["conv0_output"], {"data": data, **values},
                   ["data", "conv0_weight"], [np.zeros((4, 16, 32, 32))])
    mean = conv0["conv0"].mean(axis=(0, 2, 3))
    assert_close(states["bn0_moving_mean"],
                 momentum * values["bn0_moving_mean"] + (1 - momentum) * mean, 1e-5)
