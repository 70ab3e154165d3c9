"""oe-build uploads images to a real registry, whatever happens on the way."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from support.image_site import Site, apptainer, digest
from support.registry import Registry
from support.relays import Relay
from support.small_images import small_image

pytestmark = pytest.mark.slow


def test_what_was_pushed_apptainer_pulls(site: Site, registry: Registry, tmp_path: Path) -> None:
    site.images.mkdir()
    for number, name in enumerate(("suite", "other")):
        shutil.copy(small_image(number), site.images / f"{name}.sif")
    target = f"oras://{registry.host}/oellm/{{name}}:2"
    records, told = site.run("--push", target, "suite", "other")
    assert [record["status"] for record in records] == ["pushed", "pushed"]
    pushed = [digest(small_image(number)) for number in range(2)]
    assert [record["digest"] for record in records] == pushed
    assert re.search(rf"other: pushed in \d+ s: oras://{registry.host}/oellm/other:2", told)
    for number, name in enumerate(("suite", "other")):
        pulled = tmp_path / f"{name}.sif"
        place = f"oras://{registry.host}/oellm/{name}:2"
        apptainer("pull", "--no-https", str(pulled), place, env=site.env)
        assert digest(pulled) == digest(small_image(number))
    uploads = registry.served("PUT .*/blobs/.*")
    records, told = site.run("--push", target, "suite", "other")
    assert [record["status"] for record in records] == ["up_to_date", "up_to_date"]
    assert "suite: the registry has it" in told
    assert registry.served("PUT .*/blobs/.*") == uploads
    (record,), told = site.run("--push", target, "none", status=1)
    assert record["reason"] in told
    assert "there is no image" in told


def test_a_push_goes_on_after_a_cut(site: Site, registry: Registry, relay: Relay) -> None:
    site.images.mkdir()
    shutil.copy(small_image(), site.path)
    relay.upload_cuts.append(1_000_000)
    (record,), told = site.run("--push", f"oras://{relay.host}/oellm/suite:1")
    assert record["status"] == "pushed"
    assert "next try in 1 s" in told
    (layer,) = registry.manifest("oellm/suite", "1")["layers"]
    assert layer["digest"] == f"sha256:{digest(small_image())}"


def test_a_cut_answer_ends_no_push(site: Site, registry: Registry, relay: Relay) -> None:
    site.images.mkdir()
    for number, name in enumerate(("suite", "other")):
        shutil.copy(small_image(number), site.images / f"{name}.sif")
    target = f"oras://{relay.host}/oellm/{{name}}:1"
    site.run("--push", target, "suite", "other")
    # The first answer has the manifest, of which a part comes.
    relay.cuts.append(len(json.dumps(registry.manifest("oellm/suite", "1"))))
    records, told = site.run("--push", target, "suite", "other")
    assert [record["status"] for record in records] == ["up_to_date", "up_to_date"]
    assert "the connection was cut; next try in 1 s" in told


def test_what_is_pushed_is_what_is_there(site: Site, address: str, registry: Registry) -> None:
    site.run("--pull", address)
    shutil.copy(small_image(1), site.path)
    (record,), _ = site.run("--push", address)
    assert (record["status"], record["digest"]) == ("pushed", digest(small_image(1)))
    (layer,) = registry.manifest("oellm/suite", "1")["layers"]
    assert layer["digest"] == f"sha256:{digest(small_image(1))}"
