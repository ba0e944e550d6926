"""Say what is wrong with a file of infra/, by the schema of whoever will read it.

Each function gives sentences, none for a sound file.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(os.environ.get("ENGINES_HOME", ROOT / ".venv" / "engines")) / "schemas"
KUBERNETES = "1.37"
FLINK = "flink.apache.org/v1beta1"
GOOGLE = "@cdktf/provider-google."
META = {"count", "depends_on", "for_each", "lifecycle", "provider", "provisioner"}


def program(*command: str) -> list[str]:
    """What a linter of this environment complains of."""
    path = str(Path(sys.executable).parent / command[0])
    done = subprocess.run([path, *command[1:]], capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


def kubernetes(document: dict[str, Any]) -> list[str]:
    """By the schemas of Kubernetes, and of the Flink operator's own resources."""
    import jsonschema
    import kubernetes_validate

    try:
        if document.get("apiVersion") == FLINK:
            jsonschema.validate(document, _flink(document["kind"]))
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message[:300]}"]
    return []


@cache
def _flink(kind: str) -> dict[str, Any]:
    """The schema that the operator installs into a cluster, closed to unknown keys."""
    import yaml

    (jar,) = SCHEMAS.glob("flink-kubernetes-operator-api-*.jar")
    name = f"META-INF/fabric8/{kind.lower()}s.flink.apache.org-v1.yml"
    with zipfile.ZipFile(jar) as archive:
        resource = yaml.load(archive.read(name), yaml.CSafeLoader)
    schema: dict[str, Any] = resource["spec"]["versions"][0]["schema"][
        "openAPIV3Schema"
    ]
    schema["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
    return _closed(schema)


def _closed(schema: Any) -> Any:
    """Refuse keys that the API server would drop without a word."""
    if isinstance(schema, dict):
        schema = {name: _closed(inner) for name, inner in schema.items()}
        if isinstance(schema.get("properties"), dict):
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("anyOf", None)
            schema["type"] = ["integer", "string"]
    elif isinstance(schema, list):
        schema = [_closed(inner) for inner in schema]
    return schema


def terraform(text: str) -> list[str]:
    """By the schema of Terraform's Google provider, and by what the text itself has."""
    import hcl2

    document = hcl2.loads(text)
    found: list[str] = []
    names = {"var": set(), "local": set()}
    for kind, first, second, _ in _blocks(document):
        names.setdefault(kind, set()).add(first if second is None else second)
        if kind == "variable":
            names["var"].add(first)
    for kind, first, second, body in _blocks(document):
        if kind == "resource":
            names.setdefault(first, set()).add(second)
            entity = first.removeprefix("google_")
            config = f"{GOOGLE}{_camel(entity)}.{_pascal(entity)}Config"
            found += _fits(body, config, f"{first}.{second}")
    pattern = r"\b(var|google_\w+)\.(\w+)\b"
    for kind, name in re.findall(pattern, re.sub(r"#.*", "", text)):
        if name not in names.get(kind, ()):
            found.append(f"{kind}.{name} is not declared")
    return found


def _blocks(document: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield `(kind, first label, second label, body)`."""
    for kind, blocks in document.items():
        for block in blocks if isinstance(blocks, list) else []:
            for label, body in block.items():
                inner = body if isinstance(body, dict) else {}
                if kind == "resource":
                    for second, what in inner.items():
                        yield kind, label.strip('"'), second.strip('"'), what
                elif not label.startswith("__"):
                    yield kind, label.strip('"'), None, body


def _fits(body: Any, config: str, place: str) -> Iterator[str]:
    """Compare a block with the interface that was generated from its schema."""
    interface = _google().get(config)
    if interface is None:
        yield f"{place}: there is no such resource"
        return
    known = {one["name"]: one for one in interface["properties"]}
    given = {n: v for n, v in body.items() if not n.startswith("__") and n not in META}
    for name, one in known.items():
        if not one.get("optional") and name not in map(_camel, given):
            yield f"{place}: {name} is missing"
    for name, value in given.items():
        one = known.get(_camel(name))
        if one is None:
            yield f"{place}: {name} is unknown"
            continue
        nested = re.search(rf'"({GOOGLE}[^"]+)"', json.dumps(one["type"]))
        for inner in value if isinstance(value, list) else []:
            if nested and isinstance(inner, dict):
                yield from _fits(inner, nested[1], f"{place}.{name}")


@cache
def _google() -> dict[str, Any]:
    """Interfaces generated from the provider's schema, by their full names."""
    (wheel,) = SCHEMAS.glob("cdktf_cdktf_provider_google-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(archive.read(name))) as package:
            file = package.extractfile("package/.jsii")
            assert file
            types: dict[str, Any] = json.load(file)["types"]
    return types


def _camel(name: str) -> str:
    """`storage_bucket` as `storageBucket`."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _pascal(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def template(document: dict[str, Any]) -> list[str]:
    """By Google's own types: the metadata, and the file that a template becomes."""
    from google.protobuf import json_format

    try:
        container_spec(document, "an-image")
        for parameter in document["parameters"]:
            for regex in parameter.get("regexes", ()):
                re.compile(regex)
    except (json_format.ParseError, re.error) as error:
        return [str(error)]
    return []


def container_spec(metadata: dict[str, Any], image: str) -> Any:
    """What `gcloud dataflow flex-template build` writes, in Google's own type."""
    from google.cloud.dataflow_v1beta3 import types
    from google.protobuf import json_format

    language = {"language": "PYTHON"}
    document = {"image": image, "sdkInfo": language, "metadata": metadata}
    return types.ContainerSpec(
        json_format.ParseDict(document, types.ContainerSpec.pb()())
    )
