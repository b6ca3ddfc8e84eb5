"""Writes operators_N.onnx and operators_N.safetensors: graphs with an output for every case of an operator, and what ONNX
Runtime computes for them.

    .venv/bin/pip install onnx onnxruntime safetensors
    .venv/bin/python Tests/ONNXTests/Fixtures/make_operators.py
"""

import pathlib

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

FOLDER = pathlib.Path(__file__).parent


class Builder:
    """A graph whose every value that is kept becomes an output."""

    def __init__(self, version):
        self.version = version
        self.generator = numpy.random.default_rng(version)
        self.nodes, self.constants, self.outputs = [], [], []
        self.count = 0

    def constant(self, value, dtype=numpy.float32):
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(numpy.asarray(value, dtype), name))
        return name

    def ints(self, *values):
        return self.constant(values, numpy.int64)

    def random(self, *shape):
        return self.constant(self.generator.standard_normal(shape) * 0.5)

    def add(self, operation, *inputs, outputs=1, **attributes):
        self.count += 1
        names = [f"v{self.count}_{index}" for index in range(outputs)]
        node = helper.make_node(operation, list(inputs), names, name=f"/{operation}_{self.count}", **attributes)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def keep(self, *names):
        self.outputs += names

    def axes(self, operation, x, axes, **attributes):
        """Axes are an attribute in older versions, an operand in newer ones."""
        newer = {"Squeeze": 13, "Unsqueeze": 13, "ReduceSum": 13}.get(operation, 18)
        if self.version >= newer:
            return self.add(operation, x, self.ints(*axes), **attributes)
        return self.add(operation, x, axes=axes, **attributes)

    def write(self):
        graph = helper.make_graph(
            self.nodes, "operators",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 6, 8])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.version)], ir_version=8)
        path = FOLDER / f"operators_{self.version}.onnx"
        path.write_bytes(model.SerializeToString())
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        x = self.generator.standard_normal((2, 4, 6, 8)).astype(numpy.float32)
        results = dict(zip(self.outputs, session.run(self.outputs, {"x": x})))
        save_file({"x": x} | {name: numpy.array(value, order="C") for name, value in results.items()},
                  FOLDER / f"operators_{self.version}.safetensors")


def elementwise(b):
    positive = b.add("Add", b.add("Abs", "x"), b.constant(0.1))
    for operation in ["Relu", "Sigmoid", "Tanh", "Exp", "Sin", "Cos", "Neg", "Abs", "Identity", "LeakyRelu", "HardSigmoid"]:
        b.keep(b.add(operation, "x"))
    for operation in ["Log", "Sqrt", "Reciprocal"]:
        b.keep(b.add(operation, positive))
    b.keep(b.add("HardSigmoid", "x", alpha=0.16666667, beta=0.5), b.add("LeakyRelu", "x", alpha=0.3))
    b.keep(b.add("Pow", positive, b.constant(1.7)), b.add("Pow", "x", b.constant(2)), b.add("Pow", positive, b.constant(0.5)))
    for operation in ["Add", "Sub", "Mul", "Div"]:
        b.keep(b.add(operation, "x", b.random(4, 1, 1)), b.add(operation, b.random(1, 4, 6, 8), positive))
        b.keep(b.add(operation, "x", b.random(8)))
    b.keep(b.add("Max", "x", b.random(8), b.random(6, 1)), b.add("Min", "x", b.constant(0.2)), b.add("Sum", "x", "x", positive))
    b.keep(b.add("PRelu", "x", b.random(4, 1, 1)))
    b.keep(b.add("Clip", "x", b.constant(0), b.constant(6)), b.add("Clip", "x", b.constant(-0.5)))
    root, half, one = b.constant(2 ** 0.5), b.constant(0.5), b.constant(1)
    def cdf(x): return b.add("Add", b.add("Erf", b.add("Div", x, root)), one)
    b.keep(b.add("Mul", b.add("Mul", "x", cdf("x")), half))
    b.keep(b.add("Mul", b.add("Mul", "x", half), cdf("x")))
    b.keep(b.add("Mul", "x", b.add("Mul", half, cdf("x"))))
    mask = numpy.tril(numpy.ones((8, 8)))[:6].astype(bool)
    b.keep(b.add("Where", b.constant(mask, bool), "x", b.constant(-numpy.inf)))
    b.keep(b.add("Where", b.constant(mask, bool), b.random(6, 8), "x"))
    b.keep(b.add("Dropout", "x"))
    if b.version >= 14:
        b.keep(b.add("HardSwish", "x"))
    if b.version >= 20:
        b.keep(b.add("Gelu", "x"), b.add("Gelu", "x", approximate="tanh"))


def shapes(b):
    # What PyTorch writes for x.flatten(2).transpose(1, 2) and for reshapes by computed sizes.
    shape = b.add("Shape", "x")
    batch = b.add("Gather", shape, b.constant(0, numpy.int64), axis=0)
    channels = b.add("Gather", shape, b.constant(1, numpy.int64), axis=0)
    places = b.add("Mul", b.add("Gather", shape, b.constant(2, numpy.int64)), b.add("Gather", shape, b.constant(-1, numpy.int64)))
    half = b.add("Div", places, b.constant(7, numpy.int64))
    parts = [b.axes("Unsqueeze", value, [0]) for value in (batch, channels, places)]
    target = b.add("Concat", *parts, axis=0)
    tokens = b.add("Transpose", b.add("Reshape", "x", target), perm=[0, 2, 1])
    b.keep(tokens, b.add("Cast", half, to=TensorProto.FLOAT))
    head = b.add("Slice", shape, b.ints(0), b.ints(2), b.ints(0))
    b.keep(b.add("Reshape", "x", b.add("Concat", head, b.ints(-1), axis=0)))
    back = b.add("Reshape", b.add("Transpose", tokens, perm=[0, 2, 1]), b.ints(0, 0, 6, 8))
    b.keep(b.add("Relu", back))
    heads = b.add("Reshape", tokens, b.ints(0, 0, 2, 2))
    b.keep(b.add("Transpose", heads, perm=[0, 2, 3, 1]), b.add("Transpose", "x"))
    b.keep(b.add("Flatten", "x"), b.add("Flatten", "x", axis=3), b.add("Flatten", "x", axis=-1))
    single = b.axes("Unsqueeze", "x", [0, -1])
    b.keep(single, b.axes("Squeeze", single, [-1]), b.add("Squeeze", single))
    ones = b.add("ConstantOfShape", b.ints(4), value=numpy_helper.from_array(numpy.array([1], numpy.int64)))
    wanted = b.ints(-1, 4, 6, 8)
    expanded = b.add("Where", b.add("Equal", wanted, b.add("Mul", ones, b.ints(-1))), ones, wanted)
    b.keep(b.add("Add", "x", b.add("Expand", b.random(4, 1, 1), expanded)))
    b.keep(b.add("Expand", b.add("Slice", "x", b.ints(0), b.ints(1), b.ints(3)), b.ints(8)))
    b.keep(b.add("Tile", "x", b.ints(1, 2, 1, 3)))
    b.keep(b.add("Concat", "x", b.add("Relu", "x"), axis=1), b.add("Concat", "x", "x", axis=-1))
    sizes = b.ints(1, 3)
    if b.version >= 13:
        b.keep(*b.add("Split", "x", sizes, axis=1, outputs=2), *b.add("Split", "x", b.ints(3, 3), axis=2, outputs=2))
    else:
        b.keep(*b.add("Split", "x", axis=1, split=[1, 3], outputs=2), *b.add("Split", "x", axis=2, outputs=2))
    big = numpy.iinfo(numpy.int64).max
    b.keep(b.add("Slice", "x", b.ints(1), b.ints(big), b.ints(1)), b.add("Slice", "x", b.ints(-3, 1), b.ints(-1, 6), b.ints(3, 2)))
    b.keep(b.add("Slice", "x", b.ints(0, 1), b.ints(big, 6), b.ints(3, 2), b.ints(2, 3)))
    b.keep(b.add("Slice", "x", b.ints(-1), b.ints(-big), b.ints(3), b.ints(-1)), b.add("Slice", "x", b.ints(4), b.ints(0), b.ints(2), b.ints(-2)))
    b.keep(b.add("Gather", "x", b.ints(3, 0, -1), axis=2), b.add("Gather", "x", b.constant(1, numpy.int64), axis=1))
    b.keep(b.add("Gather", "x", b.constant([[0, 1], [2, 3]], numpy.int64), axis=3))
    pads = b.ints(0, 0, 1, 2, 0, 0, 3, 0)
    for mode in ["constant", "edge", "reflect"]:
        b.keep(b.add("Pad", "x", pads, mode=mode))
    b.keep(b.add("Pad", "x", pads, b.constant(0.7)), b.add("Pad", "x", b.ints(0, 0, -1, 0, 0, 0, 2, -3)))
    b.keep(b.add("DepthToSpace", "x", blocksize=2), b.add("DepthToSpace", "x", blocksize=2, mode="CRD"))
    b.keep(b.add("SpaceToDepth", "x", blocksize=2))
    steps = b.add("Range", b.constant(0, numpy.int64), b.add("Gather", shape, b.constant(3, numpy.int64)), b.constant(1, numpy.int64))
    b.keep(b.add("Mul", "x", b.add("Cast", steps, to=TensorProto.FLOAT)))
    root = b.add("Pow", b.add("Cast", places, to=TensorProto.FLOAT), b.constant(0.5))
    side = b.add("Cast", b.add("Floor", root), to=TensorProto.INT64)
    b.keep(b.add("Cast", b.add("Add", side, b.constant(1, numpy.int64)), to=TensorProto.FLOAT))


def reductions(b):
    for operation in ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSum", "ReduceSumSquare"]:
        b.keep(b.axes(operation, "x", [-1]), b.axes(operation, "x", [2, 3], keepdims=0), b.axes(operation, "x", [1], keepdims=0))
    b.keep(b.add("ReduceMean", "x", keepdims=0))
    b.keep(b.add("GlobalAveragePool", "x"), b.add("GlobalMaxPool", "x"))
    b.keep(b.add("Softmax", "x", axis=-1), b.add("LogSoftmax", "x", axis=-1), b.add("Softmax", "x", axis=1), b.add("Softmax", "x"))
    b.keep(b.add("BatchNormalization", "x", b.random(4), b.random(4), b.random(4), b.add("Exp", b.random(4)), epsilon=1e-3))
    b.keep(b.add("InstanceNormalization", "x", b.random(4), b.random(4)))
    mean = b.axes("ReduceMean", "x", [-1])
    centred = b.add("Sub", "x", mean)
    variance = b.axes("ReduceMean", b.add("Pow", centred, b.constant(2)), [-1])
    normal = b.add("Div", centred, b.add("Sqrt", b.add("Add", variance, b.constant(1e-6))))
    b.keep(b.add("Add", b.add("Mul", normal, b.random(8)), b.random(8)))
    if b.version >= 17:
        b.keep(b.add("LayerNormalization", "x", b.random(8), b.random(8)), b.add("LayerNormalization", "x", b.random(6, 8), axis=2))
    if b.version >= 21:
        b.keep(b.add("GroupNormalization", "x", b.random(4), b.random(4), num_groups=2))


def products(b):
    rows = b.add("Reshape", "x", b.ints(0, -1, 8))
    b.keep(b.add("Add", b.random(5), b.add("MatMul", rows, b.random(8, 5))), b.add("MatMul", b.random(7, 24), rows))
    b.keep(b.add("MatMul", rows, b.add("Transpose", rows, perm=[0, 2, 1])), b.add("MatMul", "x", b.random(1, 1, 8, 3)))
    b.keep(b.add("MatMul", "x", b.random(4, 8, 3)), b.add("MatMul", rows, b.random(8)))
    flat = b.add("Flatten", "x")
    b.keep(b.add("Gemm", flat, b.random(192, 3), b.random(3)), b.add("Gemm", flat, b.random(3, 192), b.random(1, 3), transB=1, alpha=0.5, beta=2.0))
    b.keep(b.add("Gemm", b.random(2, 3), flat, transA=1))
    b.keep(b.add("Conv", "x", b.random(5, 4, 3, 3), b.random(5), pads=[1, 1, 1, 1]))
    b.keep(b.add("Conv", "x", b.random(6, 2, 3, 2), strides=[2, 1], pads=[1, 0, 0, 2], group=2, dilations=[1, 2]))
    b.keep(b.add("Conv", "x", b.random(4, 1, 3, 3), group=4, auto_pad="SAME_UPPER", strides=[2, 2]), b.add("Conv", "x", b.random(3, 4, 1, 1), b.random(3)))
    b.keep(b.add("ConvTranspose", "x", b.random(4, 3, 4, 4), b.random(3), strides=[2, 2], pads=[1, 1, 1, 1]))
    b.keep(b.add("ConvTranspose", "x", b.random(4, 3, 3, 2), strides=[3, 2], output_padding=[1, 0]))


def maps(b):
    b.keep(b.add("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), b.add("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2]))
    b.keep(b.add("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), b.add("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 0]))
    b.keep(b.add("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]), b.add("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2]))
    b.keep(b.add("AveragePool", "x", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], count_include_pad=1))
    # Left out since version 13; empty before.
    none = "" if b.version >= 13 else b.constant([])
    sizes, scales = b.ints(2, 4, 9, 5), b.constant([1, 1, 2, 0.5])
    for mode, coordinates in [("linear", "half_pixel"), ("linear", "align_corners"), ("linear", "pytorch_half_pixel"), ("cubic", "half_pixel"), ("cubic", "align_corners")]:
        b.keep(b.add("Resize", "x", none, none, sizes, mode=mode, coordinate_transformation_mode=coordinates, cubic_coeff_a=-0.75))
        b.keep(b.add("Resize", "x", none, scales, mode=mode, coordinate_transformation_mode=coordinates, cubic_coeff_a=-0.75))
    for coordinates in ["asymmetric", "half_pixel", "align_corners"]:
        for rounding in ["floor", "round_prefer_floor", "round_prefer_ceil", "ceil"]:
            b.keep(b.add("Resize", "x", none, none, sizes, mode="nearest", coordinate_transformation_mode=coordinates, nearest_mode=rounding))
    if 16 <= b.version < 20:
        grid = numpy.tanh(b.generator.standard_normal((2, 3, 5, 2))) * 1.3
        b.keep(b.add("GridSample", "x", b.constant(grid)), b.add("GridSample", "x", b.constant(grid), align_corners=1))
        large = b.generator.uniform(-1.2, 1.2, (2, 9, 11, 2))
        b.keep(b.add("GridSample", "x", b.constant(large)))


for version in [11, 17, 21]:
    builder = Builder(version)
    for part in (elementwise, shapes, reductions, products, maps):
        part(builder)
    builder.write()
