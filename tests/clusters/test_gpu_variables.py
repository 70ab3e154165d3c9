"""Which of the variables that name GPUs counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm.clusters import gpu_variables
from oellm.clusters.gpu_variables import ALL, AMD, NVIDIA


@pytest.mark.parametrize(
    ("arguments", "gres", "order"),
    [
        (["--contain", "--nv"], "gpu:4", ALL),
        (["--rocm"], "gpu:4", AMD + NVIDIA),
        ([], "gpu:mi250:8", AMD + NVIDIA),
        ([], "gpu:amd_mi300a:4", AMD + NVIDIA),
        ([], "gpu:a100:4", ()),
        ([], "", ()),
    ],
)
def test_settings_may_tell_the_vendor(
    arguments: list[str], gres: str, order: tuple[str, ...]
) -> None:
    assert gpu_variables.order_by_settings(arguments, gres) == order


@pytest.mark.parametrize(
    ("devices", "order"),
    [
        ([], ALL),
        (["kfd"], AMD + NVIDIA),
        (["nvidiactl", "nvidia0"], ALL),
        # A processor with graphics beside NVIDIA's cards.
        (["kfd", "nvidiactl"], ALL),
    ],
)
def test_devices_tell_the_vendor(
    tmp_path: Path, devices: list[str], order: tuple[str, ...]
) -> None:
    (tmp_path / "dev").mkdir()
    for name in devices:
        (tmp_path / "dev" / name).touch()
    assert gpu_variables.order_by_devices(str(tmp_path)) == order


def test_one_variable_stays_the_first_that_names_a_gpu() -> None:
    cuda, rocr, hip = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
    for order, kept in ((ALL, cuda), (AMD + NVIDIA, rocr)):
        environ = {cuda: "4,5", rocr: "4,5", hip: "4,5", "GPU_DEVICE_ORDINAL": "0", "HOME": "/"}
        gpu_variables.keep_one_variable(environ, order)
        assert environ == {kept: "4,5", "HOME": "/"}
    assert gpu_variables.choose_variable({rocr: "", cuda: "1"}, AMD + NVIDIA) == cuda
    assert gpu_variables.choose_variable({rocr: ""}, AMD + NVIDIA) == rocr
    assert gpu_variables.choose_variable({"HOME": "/"}, ALL) == ""


def test_a_value_names_the_gpus_before_the_first_invalid_one() -> None:
    assert gpu_variables.list_gpus("GPU-a, 3,-1,7") == ["GPU-a", "3"]
    assert gpu_variables.list_gpus("") == gpu_variables.list_gpus("NoDevFiles") == []
