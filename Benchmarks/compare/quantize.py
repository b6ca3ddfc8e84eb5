"""Quantizes MODEL-BATCH.onnx as its users would: by NNCF for OpenVINO, by static quantization for ONNX Runtime.

    python quantize.py FOLDER/MODEL-BATCH.onnx

Writes the same name with .nncf.xml and .int8.onnx behind it. Calibration is on noise: the weights are random, and only
times are compared.
"""

import sys

import numpy
import nncf
import openvino
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

path = sys.argv[1]
model = openvino.Core().read_model(path)
name, shape = model.inputs[0].get_any_name(), list(model.inputs[0].shape)
generator = numpy.random.default_rng(0)
images = [generator.standard_normal(shape, dtype=numpy.float32) for _ in range(2)]

quantized = nncf.quantize(
    model, nncf.Dataset(images), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(images), fast_bias_correction=True
)
openvino.save_model(quantized, path + ".nncf.xml", compress_to_fp16=False)


class Images(CalibrationDataReader):
    def __init__(self):
        self.left = iter(images)

    def get_next(self):
        image = next(self.left, None)
        return None if image is None else {name: image}


quant_pre_process(path, path + ".inferred.onnx")
quantize_static(
    path + ".inferred.onnx",
    path + ".int8.onnx",
    Images(),
    quant_format=QuantFormat.QDQ,
    per_channel=True,
    activation_type=QuantType.QUInt8,
    weight_type=QuantType.QInt8,
)
