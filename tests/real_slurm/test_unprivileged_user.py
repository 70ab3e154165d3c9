"""The sandbox as on a cluster: the worker belongs to a user without any privilege."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from oellm.runs.frozen_worker import freeze_worker
from support.hostile_runs import HONEST, hostile_runs
from support.processes import ROOT

NOBODY = 65534
# Everybody may use /dev/fuse on a cluster; here, this user may, in a mount namespace of its own.
AS_NOBODY = """set -e
mount --bind "$1" "$2/image"
mount -t tmpfs none /mnt
mknod /mnt/fuse c 10 229
chmod 666 /mnt/fuse
mount --bind /mnt/fuse /dev/fuse
exec env HOME="$2" setpriv --reuid 65534 --regid 65534 --clear-groups \
    /usr/bin/python3 "$2/program.py" "$2"
"""
PROGRAM = """
import json, sys
from pathlib import Path
place = Path(sys.argv[1])
sys.path.insert(0, str(place / "worker.pyz"))
from oellm.clusters.cluster import Cluster
from oellm.sandbox.contained import Contained, Limits, SampleLimits
from oellm.sandbox.layers import find_layers
from oellm.sandbox.running import run_contained

found = {}
for name, image in (("container", place / "image"), ("bare", None)):
    layers = find_layers(Cluster({}, {}), image, unsafe_execution=image is None)
    (place / name).mkdir()
    inputs = {place / "evaluator": "/in/evaluator", place / "samples": "/in/samples"}
    argv = ("/usr/bin/python3", "/in/evaluator", "/in/samples", "/out/metrics.json")
    limits = Limits(120, memory_bytes=3 << 30, sample=SampleLimits(memory_bytes=512 << 20))
    contained = Contained(argv, image, inputs, place / name, {}, limits)
    end = run_contained(contained, layers, place / "log")
    results = json.loads((place / name / "metrics.json").read_text()) if not end.status else {}
    found[str(layers)] = {"reason": end.reason, "results": results}
print(json.dumps(found))
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """Yield a directory that everybody can reach and write to."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_hostile_samples_are_contained_with_a_container_and_without(
    public: Path, image: Path
) -> None:
    (public / "worker.pyz").write_bytes(freeze_worker(["lm_eval"]))
    (public / "program.py").write_text(PROGRAM)
    (public / "image").write_text("")
    shutil.copyfile(ROOT / "tests" / "support" / "toy_evaluator.py", public / "evaluator")
    with hostile_runs(public) as runs:
        samples = runs.programs | {name: text for name, (text, _) in HONEST.items()}
        (public / "samples").write_text(json.dumps(samples))
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-c", AS_NOBODY, "bash", str(image), str(public)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert [path.name for path in (public / "canary").iterdir()] == ["token"]
    found = json.loads(done.stdout)
    assert list(found) == ["container+guard", "guard"]
    for run in found.values():
        assert run["reason"] == ""
        results = run["results"]
        assert results.keys() == samples.keys()
        assert {name: results.pop(name) for name in HONEST} == {
            name: result for name, (_, result) in HONEST.items()
        }
        assert all(result.startswith(("failed", "timed out")) for result in results.values())
