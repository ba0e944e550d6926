"""Data and a model -> a config that runs, and what was guessed in it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config_file import parse_config, set_key
from pipeline.init.data import find_source, window_frames
from pipeline.init.head import Head, read_head
from pipeline.init.inputs import Wiring, wire_inputs
from pipeline.init.nulls import bad_share, fill_nulls, fill_steps
from pipeline.init.questions import Questions
from pipeline.init.taps import Proposal, propose_taps
from pipeline.init.text import Lines
from pipeline.plan import make_plan, trace_job
from transforms import storage
from transforms.config import Config, ModelSpec
from transforms.dtypes import Feature
from transforms.lookup import ConfigError, import_module
from transforms.messages import shape_text
from transforms.models.forms import build_form, load_form
from transforms.models.model import ModelForm
from transforms.sources.examples import RECORD
from transforms.sources.readers import make_source
from transforms.sources.staging import local_copies
from transforms.taps.survey import list_activations

_TYPED = ("csv", "jsonl", "tfrecord", "array_record", "webdataset")
"""Readers whose option `features` gives the types of what they read."""
_MESSAGES = ("tfrecord", "array_record")
_FUNCTION = re.compile(r"[\w.]+:[\w.]+")
_TAPS = "featuretap taps lists what else there is; docs/taps.md has the reductions"


@dataclass(frozen=True, slots=True)
class Draft:
    """A config that was written.

    Attributes:
      text: the config, TOML with comments.
      guessed: what was assumed and may be wrong.
      unknown: what has to be filled in.
      problem: why it cannot be planned as it is; empty if it can.
    """

    text: str
    guessed: Sequence[str]
    unknown: Sequence[str]
    problem: str = ""


def draft_config(
    data: str,
    model: str,
    table: str,
    overrides: Sequence[str] = (),
    questions: Questions | None = None,
) -> Draft:
    """Look at data and a model, and write a config for both.

    Args:
      data: files, a directory, a glob, or what TFDS has prepared; on any filesystem.
      model: what `model.path` or `model.build` takes.
      table: the table's directory.
      overrides: `a.b=value` for keys that are known already.
      questions: asked where the draft is unsure; by default nobody is.

    Raises:
      ConfigError: there is nothing to read, or the model cannot be loaded.
    """
    questions = questions or Questions()
    given: dict[str, Any] = {"source": {}, "model": {}, "table": {"path": table}}
    for override in overrides:
        set_key(given, override)
    given["source"] = find_source(data, given["source"], questions)
    given["model"] = {**_named(model), **given["model"]}
    config = parse_config(given)
    form = _load(config.model)
    given["source"] = _windowed(given["source"], form)
    source = make_source(parse_config(given).source)
    head = read_head(source, _parsed(source.describe(), given["source"]["reader"]))
    wiring = wire_inputs(form, _given_inputs(config.model, form), head, questions)
    used = {n: head.features[n] for n in wiring.used & head.features.keys()}
    if "preprocess" not in given["source"]:
        filled = fill_nulls(source, head, used)
        wiring.steps[:0] = fill_steps(filled, head, questions)
        used |= filled
    lines = Lines()
    _write_source(lines, given["source"], head, wiring, questions)
    _write_model(lines, given["model"], form, wiring, questions)
    return _with_taps(lines, given, bad_share(source, head, used), questions)


def _parsed(features: Mapping[str, Feature], reader: str) -> dict[str, Feature]:
    """Leave out the message that features are parsed from, if there are others."""
    parsed = {n: f for n, f in features.items() if n != RECORD}
    return parsed if parsed and reader in _MESSAGES else dict(features)


def _named(model: str) -> dict[str, str]:
    is_function = _FUNCTION.fullmatch(model) and not storage.exists(model)
    return {"build" if is_function else "path": model}


def _load(spec: ModelSpec) -> ModelForm:
    """Load a model before it is known what goes in."""
    for module in spec.imports:
        import_module(module, "model.imports")
    with local_copies(spec.files) as files:
        return load_form(spec, files[spec.path]) if spec.path else build_form(spec)


def _given_inputs(spec: ModelSpec, form: ModelForm) -> Mapping[str, str]:
    """Give what is known already of inputs, by their names."""
    if isinstance(spec.inputs, dict):
        return spec.inputs
    return dict(zip((one.name for one in form.declared()), spec.inputs, strict=False))


def _windowed(source: Mapping[str, Any], form: ModelForm) -> dict[str, Any]:
    """Cut recordings into windows of the length that the model takes."""
    declared = [one for one in form.declared() if not one.optional]
    if source["reader"] != "audio" or len(declared) != 1 or not declared[0].shape:
        return dict(source)
    return {**source, **(window_frames(declared[0].shape[1:]) | dict(source))}


def _write_source(
    lines: Lines,
    options: Mapping[str, Any],
    head: Head,
    wiring: Wiring,
    questions: Questions,
) -> None:
    lines.section("[source]")
    aside = ("features", "sequence_features", "key", "keep", "preprocess")
    for name, value in options.items():
        if name not in aside:
            lines.put(name, value)
    key = options.get("key") or _write_key(lines, head, questions)
    if "key" in options:
        lines.put("key", options["key"])
    _write_keep(lines, options, head, {key, *wiring.used})
    steps = [(step, "") for step in options.get("preprocess", ())] or wiring.steps
    if steps:
        lines.steps(steps)
    if options["reader"] in _TYPED and "features" not in options:
        _write_features(lines, options["reader"], head.features)
    elif "features" in options:
        lines.put("features", options["features"])
    else:
        shown = (f"{n} {f.dtype} {shape_text(f.shape)}" for n, f in _sorted(head))
        lines.say(f"features: {', '.join(shown)}".replace(" []", ""))


def _write_key(lines: Lines, head: Head, questions: Questions) -> str | None:
    if head.default_key:
        lines.say(f"the key is {head.default_key!r}, the reader's own")
        return head.default_key
    if keys := head.keys():
        key = questions.choose("key", keys)
        text = f"{key!r} is the key: its values differ in the first {len(head.rows)}"
        lines.put("key", key, questions.guess(f"{text} rows; they must in all"))
        return key
    lines.say(
        "without a key rows are called by file and number; if a feature differs in"
        ' every row: key = "<feature>"'
    )
    return None


def _write_keep(
    lines: Lines, options: Mapping[str, Any], head: Head, used: set[str | None]
) -> None:
    """Keep labels; say what else could be kept."""
    if "keep" in options:
        return lines.put("keep", options["keep"])
    scalars = [n for n, one in head.features.items() if not one.shape and n not in used]
    labels = [name for name in head.labels() if name in scalars]
    others = ", ".join(name for name in scalars if name not in labels)
    if labels:
        lines.put("keep", labels, "columns of the table")
    if others:
        lines.say(f"could be kept, too, with keep = […]: {others}")
    return None


def _sorted(head: Head) -> list[tuple[str, Feature]]:
    return sorted(head.features.items())


def _write_features(lines: Lines, reader: str, features: Mapping[str, Feature]) -> None:
    """Write the types as a table; lists of tf.SequenceExample as one of their own."""
    lists = {n for n, one in features.items() if one.shape[:1] == (None,)}
    lists = lists if reader in _MESSAGES else set()
    for option in ("features", "sequence_features"):
        names = [n for n in features if (n in lists) == (option != "features")]
        if names:
            lines.section(f"[source.{option}]")
        for name in names:
            one = features[name]
            shape = [-1 if n is None else n for n in one.shape[name in lists :]]
            if not name.startswith("__"):
                typed = {"dtype": one.dtype, "shape": shape} if shape else one.dtype
                lines.put(name, typed)


def _write_model(
    lines: Lines,
    options: Mapping[str, Any],
    form: ModelForm,
    wiring: Wiring,
    questions: Questions,
) -> None:
    lines.section("[model]")
    for name, value in options.items():
        if name != "inputs":
            lines.put(name, value)
    declared = [one for one in form.declared() if not one.optional]
    fixed = {one.shape[0] for one in declared if one.shape} - {None}
    if fixed and "batch_rows" not in options:
        lines.put("batch_rows", fixed.pop(), "the model takes no other number")
    features = list(wiring.inputs.values())
    if len(declared) == len(features) == 1:
        lines.put("inputs", features[0], "the feature that goes in")
    elif len(declared) == len(features) and any(n.isdigit() for n in wiring.inputs):
        lines.put("inputs", features, "features in the order of the model's inputs")
    elif features:
        lines.put("inputs", wiring.inputs, "{ model input = feature }")
    for text in questions.unknown:
        lines.say(f"not known: {text}; add it to inputs")


def _with_taps(
    lines: Lines, given: Mapping[str, Any], bad: float, questions: Questions
) -> Draft:
    """Choose taps that can be planned, and write the rest."""
    document = tomllib.loads(lines.text())
    proposals, problem = _proposals({**document, "table": given["table"]})
    for proposal in proposals:
        lines.section("[[taps]]")
        lines.put("path", proposal.path, proposal.comment)
        if proposal.reduce:
            lines.put("reduce", list(proposal.reduce), "to one number for each channel")
        if proposal.column:
            lines.put("column", proposal.column)
    lines.say(_TAPS)
    lines.section("[table]")
    for name, value in given["table"].items():
        lines.put(name, value)
    lines.section("[errors]")
    _write_errors(lines, bad, questions)
    return Draft(lines.text(), questions.guessed, questions.unknown, problem)


def _write_errors(lines: Lines, bad: float, questions: Questions) -> None:
    if bad:
        text = f"{bad:.0%} of the first rows are bad, or lack a value that goes in"
        share = min(1.0, round(2 * bad, 2))
        comment = questions.guess(f"{text}; twice that is accepted")
        lines.put("max_fraction", share, comment)
    else:
        text = "share of rows that may be bad; 0.01 accepts one in a hundred"
        lines.put("max_fraction", 0, text)


def _proposals(document: dict[str, Any]) -> tuple[list[Proposal], str]:
    """Propose taps that can be planned; say why there are none."""
    try:
        config = parse_config(document)
        found = propose_taps(list_activations(trace_job(config).model))
    except ConfigError as error:
        return [], str(error)
    if _problem(config, found) == "":
        return found, ""
    sound = [one for one in found if _problem(config, [one]) == ""]
    return sound, "" if sound else _problem(config, found)


def _problem(config: Config, proposals: Sequence[Proposal]) -> str:
    """Plan some taps; say what speaks against it."""
    taps = [
        {"path": one.path, "reduce": one.reduce, "column": one.column or None}
        for one in proposals
    ]
    document = {**config.model_dump(exclude_unset=True), "taps": taps}
    try:
        make_plan(parse_config(document))
    except ConfigError as error:
        return str(error)
    return ""
