"""ComfyUI is the oracle for what distillation exports: it applies the tensors as the student did in training."""

import pytest
import torch
from adapter_samples import judged_by_host, relative
from lora_graft.kernels.distill.students import STUDENTS

pytestmark = pytest.mark.host
SHAPES = {"linear": (24, 20), "conv": (24, 20, 3, 3)}


def test_the_host_applies_every_kind_as_the_student_does(comfy, tmp_path):
    weights, tensors, expected = {}, {}, {}
    generator = torch.Generator().manual_seed(0)
    for kind in STUDENTS:
        for rank in (3, 12):
            for layer, shape in SHAPES.items():
                key, weight = f"{kind} {layer} {rank}", torch.randn(shape, generator=generator)
                student = STUDENTS[kind].create(shape, rank, 2.0, generator, weight=weight)
                with torch.no_grad():
                    for parameter in student.params.values():
                        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
                change = student.change()
                rows = weight.flatten(1) + change.up @ change.down
                rows = rows if change.gain is None else change.gain[:, None] * rows
                weights[key], expected[key] = weight, (rows.detach() - weight.flatten(1)).reshape(shape)
                tensors |= {key + suffix: tensor for suffix, tensor in student.tensors().items()}
    judged = judged_by_host(comfy, tmp_path, weights, tensors)
    assert max(relative(judged[key + ".weight"], expected[key]) for key in weights) < 3e-6
