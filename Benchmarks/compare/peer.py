"""One rival, loaded once and timed on demand: a process that answers each line on standard input with its median time.

    python peer.py KIND MODEL BATCH PRECISION THREADS FOLDER

KIND is torch, compiled, openvino or onnxruntime; FOLDER holds MODEL-BATCH.onnx for the last two, and what quantize.py made
of it for int8.
"""

import statistics
import sys
import time


def torch_runner(name, batch, precision, threads, compiles):
    import torch
    from models import MODELS

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    side, build = MODELS[name]
    model = build().eval()
    if compiles:
        model = torch.compile(model)
    images = torch.randn(batch, 3, side, side)

    def run():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return model(images)

    return run


def openvino_runner(path, images, precision, threads):
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}[precision],
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    return lambda: request.infer([images])


def onnxruntime_runner(path, images, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {session.get_inputs()[0].name: images})


def main():
    kind, name, batch, precision, threads, folder = sys.argv[1:]
    batch, threads = int(batch), int(threads)
    if kind in ("torch", "compiled"):
        run = torch_runner(name, batch, precision, threads, kind == "compiled")
    else:
        import numpy

        path = f"{folder}/{name}-{batch}.onnx"
        side = int(open(f"{path}.side").read())
        images = numpy.random.default_rng(0).standard_normal((batch, 3, side, side), dtype=numpy.float32)
        if precision == "int8":
            path += ".nncf.xml" if kind == "openvino" else ".int8.onnx"
        if kind == "openvino":
            run = openvino_runner(path, images, precision, threads)
        else:
            run = onnxruntime_runner(path, images, threads)
    for _ in range(3):
        run()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, times = float(line), []
        run()
        end = time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        print(1000 * statistics.median(times), flush=True)


main()
