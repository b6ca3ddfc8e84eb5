"""Makes the checkpoints beside this file: python make.py (PyTorch 2.13, NumPy 2)."""

import argparse
import collections
import json
import os
import pathlib
import pickle
import zipfile

import numpy as np
import torch

base = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8
run = torch.arange(24, dtype=torch.float32)
state = collections.OrderedDict()
for name in ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"]:
    state["type." + name] = (torch.arange(6).reshape(2, 3) - 2).to(getattr(torch, name))
state["type.uint8"] = torch.tensor([[0, 1, 2], [3, 4, 255]], dtype=torch.uint8)
state["type.bool"] = torch.tensor([[True, False, True], [False, True, True]])
state["shared.a"], state["shared.b"] = run[4:10], run.reshape(4, 6)
state["transposed"], state["strided"] = base.t(), run[1::3]
state["permuted"], state["expanded"] = run.reshape(2, 3, 4).permute(2, 0, 1), torch.tensor([2.5]).expand(3, 2)
state["scalar"], state["empty"] = torch.tensor(7.0), torch.zeros(0, 3)
state["parameter"] = torch.nn.Parameter(base * 2)
content = {
    "model": state,
    "epoch": 3,
    "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("/x"), inner=argparse.Namespace(a=(1, 2))),
    "best": np.float64(0.5),
    "array": np.arange(3),
    "set": {1, 2},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": base}}, "param_groups": [{"params": [0]}]},
    "others": [torch.Size([1, 2]), torch.device("cpu"), torch.float16, None, -(2**40), 0.25, b"bytes"],
    "default": collections.defaultdict(list),
}
torch.save(content, "all.pth")
torch.save(content, "all_old.pth", _use_new_zipfile_serialization=False)
torch.save(content, "all_protocol4.pth", pickle_protocol=4)
expected = {k: [list(v.shape), [float(x) for x in v.detach().reshape(-1).tolist()]] for k, v in state.items()}
json.dump(expected, open("all.json", "w"))

small = {"w": base, "b": torch.ones(2)}
torch.save({"teacher": {k: v + 1 for k, v in small.items()}, "student": small}, "teacher_student.pth")
torch.save({"state_dict": small, "state_dict_ema": {k: v * 2 for k, v in small.items()}}, "ema.pth")
torch.save(torch.nn.Linear(2, 2), "whole_module.pth")


def hostile(name, function, arguments, protocol):
    class Call:
        def __reduce__(self):
            return function, arguments

    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": Call()}, protocol))


hostile("hostile_system.pth", os.system, ("touch owned",), 2)
hostile("hostile_getattr.pth", getattr, (torch.nn.Module, "load_state_dict"), 2)
hostile("hostile_eval.pth", eval, ("1 + 1",), 4)
