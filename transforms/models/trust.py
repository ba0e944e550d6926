"""Refuse stored models that bring code of their own, unless they are trusted.

A stored model is a program. Ordinary layers and operations only compute; Python
functions stored in a model, and operations that use files or call Python, can do
anything that the user may do. The check finds known ways only, and confines nothing.
"""

from __future__ import annotations

from pathlib import Path

from transforms.lookup import ConfigError

# Operations that write or read files, run Python, or talk to other machines.
_UNSAFE = frozenset(
    (
        *("PyFunc", "PyFuncStateless", "EagerPyFunc"),
        *("ReadFile", "WriteFile", "MatchingFiles", "WholeFileReaderV2"),
        *("Save", "SaveSlices", "SaveDataset", "SaveDatasetV2", "DatasetToTFRecord"),
        *("CreateSummaryFileWriter", "CreateSummaryDbWriter", "WriteRawProtoSummary"),
        *("DebugIdentity", "DebugIdentityV2", "DebugNumericSummary"),
        *("RpcCall", "RpcClient", "RpcServer", "SendTPUEmbeddingGradients"),
    )
)


def check_saved(path: Path, uri: str) -> None:
    """Check all operations of a SavedModel, before any of it is loaded.

    Args:
      path: local path of the model.
      uri: the model as the config names it, for errors.

    Raises:
      ConfigError: an operation does more than compute.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    try:
        stored.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception:  # protobuf's own: loading says what is wrong
        return
    for graph in stored.meta_graphs:
        functions = graph.graph_def.library.function
        bodies = [graph.graph_def.node, *(function.node_def for function in functions)]
        for node in (node for body in bodies for node in body):
            to_file = node.op == "PrintV2" and b"://" in node.attr["output_stream"].s
            if node.op in _UNSAFE or to_file:
                _refuse(uri, f"operation {node.name!r} is a {node.op}")


def _refuse(uri: str, what: str) -> None:
    raise ConfigError(
        f"model.path must be a model that only computes, got {uri!r}: {what}, which can"
        " do anything on every worker; if you trust whoever made it, set model.trusted"
        " = true"
    )
