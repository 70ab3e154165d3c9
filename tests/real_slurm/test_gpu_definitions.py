"""A definition for GPUs, tried as far as a machine without any can: on a base with a CPU torch."""

from __future__ import annotations

import subprocess

from support.frameworks import image_of


def test_a_gpu_definition_adds_its_packages_and_leaves_torch_alone(tools: None) -> None:
    image = image_of("lm_eval-cuda")
    where = "import torch, transformers; print(torch.__file__, transformers.__file__)"
    found = subprocess.check_output(
        ["apptainer", "exec", image, "python3", "-c", where], text=True
    ).split()
    assert [path.partition("/lib/")[0] for path in found] == ["/opt/base", "/opt/framework"]
    labels = subprocess.check_output(["apptainer", "inspect", "--labels", image], text=True)
    assert "oellm.version.lm_eval: 0.4.13" in labels
    assert "org.opencontainers.image.created: 20" in labels
    # All of the check but its last line passes.
    done = subprocess.run(["apptainer", "test", image], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("is not built for cuda"), done.stderr
