"""The tasks of lighteval in families, as its registry has them: 52,617 names in 0.13.0.

Tasks of a family have one data set, and the names and parts of the family combined. So the file
is short, and a change of it can be read.
"""

import collections
import importlib.metadata
from collections.abc import Iterable
from typing import Any

# Why oellm cannot run a task, by the class of one of its metrics.
_OBSTACLES = {
    "CodegenMetric": "it runs programs that the model writes, outside of any sandbox",
    "VerifiableRewardMetric": "it runs programs that the model writes, outside of any sandbox",
    "JudgeLLMMixEval": "another model judges the answers, over the network",
    "JudgeLLMHLE": "another model judges the answers, over the network",
    "JudgeLLMMTBench": "another model judges the answers, over the network",
    "JudgeMetricWrapper": "another model judges the answers",
    "BertScore": "its metrics load models that oe-fetch does not know",
    "BLEURT": "its metrics load models that oe-fetch does not know",
    "Faithfulness": "its metrics load models that oe-fetch does not know",
    "IFBench": "its metrics load a model of spaCy that oe-fetch does not know",
    "TinyCorpusAggregator": "it needs tinyBenchmarks.pkl, which is not in the environment",
}
_IMAGES = "it shows images to the model"
# The packages of NLTK that a metric reads, by its class.
_NLTK = {"BLEU": ["punkt_tab"], "IFEvalMetrics": ["punkt", "punkt_tab"]}


def describe() -> dict[str, Any]:
    from lighteval.tasks.registry import Registry

    configs = Registry.load_all_task_configs(load_multilingual=True)
    # The names of the tasks before a colon, by what they have in common.
    members: dict[Any, dict[str, list[tuple[str, str]]]] = collections.defaultdict(dict)
    for task, config in configs.items():
        name, _, part = task.partition(":")
        members[_common(config)].setdefault(name, []).append((part, config.hf_subset or ""))
    families = [
        family for common, by_name in members.items() for family in _families(common, by_name)
    ]
    families.sort(key=lambda family: (family["data"], family["names"]))
    version = importlib.metadata.version("lighteval")
    return {"catalogue.json": {"version": version, **_share_parts(families)}}


def _common(config: Any) -> tuple[Any, ...]:
    """Return what tasks of one family have alike."""
    metrics = [type(metric.sample_level_fn).__name__ for metric in config.metrics]
    metrics += [
        getattr(m.sample_level_fn, "__qualname__", "").split(".")[0] for m in config.metrics
    ]
    obstacles = [_OBSTACLES[name] for name in metrics if name in _OBSTACLES]
    if "mmmu" in config.name:
        obstacles.append(_IMAGES)
    nltk = sorted({package for name in metrics for package in _NLTK.get(name, ())})
    splits = "+".join(config.evaluation_splits)
    return (
        config.hf_repo,
        config.hf_revision or "",
        splits,
        tuple(nltk),
        next(iter(obstacles), ""),
        _count_answers(config),
    )


def _count_answers(config: Any) -> int:
    """Return how many answers a task asks for to one question."""
    functions = [metric.sample_level_fn for metric in config.metrics]
    # Of some it is a number, which means something else.
    counts = [
        each.num_samples() for each in functions if callable(getattr(each, "num_samples", None))
    ]
    return max([1, *filter(None, counts)])


def _families(
    common: tuple[Any, ...], by_name: dict[str, list[tuple[str, str]]]
) -> Iterable[dict[str, Any]]:
    """Yield families of names whose parts and configurations are alike."""
    data, revision, splits, nltk, obstacle, answers = common
    alike = collections.defaultdict(list)
    for name, parts in by_name.items():
        alike[tuple(sorted(parts))].append(name)
    for parts, names in alike.items():
        family: dict[str, Any] = {"names": sorted(names), "data": data, "splits": splits}
        family |= _describe_parts([part for part, _ in parts], [config for _, config in parts])
        optional = {"revision": revision, "nltk": list(nltk), "obstacle": obstacle}
        family |= {key: value for key, value in optional.items() if value}
        yield family | ({"answers": answers} if answers > 1 else {})


def _describe_parts(parts: list[str], configs: list[str]) -> dict[str, Any]:
    """Return parts and configurations of a family; configurations like the parts are left out."""
    codes = sorted({part.partition("-")[0] for part in parts})
    pairs = [f"{a}-{b}" for a in codes for b in codes if a != b]
    if len(parts) > 1 and pairs == parts == configs:
        return {"pairs": codes}
    described: dict[str, Any] = {} if parts == [""] else {"parts": parts}
    if len(set(configs)) == 1:
        return described | {"config": configs[0]}
    return described if configs == parts else described | {"configs": configs}


def _share_parts(families: list[dict[str, Any]]) -> dict[str, Any]:
    """Return families and the lists that several of them have, which they have by their numbers."""
    keys = ("parts", "configs")
    lists = collections.Counter(
        tuple(family[key]) for family in families for key in keys if len(family.get(key, ())) > 2
    )
    shared = [each for each, count in lists.items() if count > 1]
    for family in families:
        for key in keys:
            if tuple(family.get(key, ())) in shared:
                family[key] = shared.index(tuple(family[key]))
    return {"lists": [list(each) for each in shared], "families": families}
