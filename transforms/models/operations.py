"""Tell which operations of TensorFlow only compute.

An operation without state computes its outputs from its inputs, unless its name or an
argument's says that it reaches outside. Of the operations with state only those are
allowed that keep it within the process: variables, tables, random numbers, loops.
Whatever is not known to be harmless is not allowed, also in versions of TensorFlow that
are not written yet.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

# In the names of operations without state that reach files, machines or Python, run a
# graph that they get as a value, or end the process.
_OUTSIDE = re.compile(
    r"File(?!name|spec)|Save|Restore|Record|Reader|Snapshot.|Cache|Sql|LMDB"
    r"|ImmutableConst|Remapping|Rpc|Remote|Service|Register|Http|Gcs|Kafka"
    r"|PyFunc|FromGraph|Mlir|CustomCall|SymbolicGradient|Debug|Dump|Copy(Host)?$"
    r"|Infeed|Outfeed|Abort"
)
# In the names of their arguments.
_PLACES = re.compile(r"file|(^|_)path(_|$)|address|dir$|_uri$|url|directory")

# Operations with state whose state ends with the process.
_HARMLESS = re.compile(
    # variables and what is scattered into them; optimizers
    r"Var(iable(V2)?|HandleOp|IsInitializedOp|iableShape)|TemporaryVariable"
    r"|ReadVariable(Op|XlaSplitND)|Assign(Add|Sub)?VariableOp|AssignVariableXlaConcatND"
    r"|Resource(Sparse)?Apply\w+|ResourceGather(Nd)?|ResourceScatter\w+"
    r"|ResourceStridedSliceAssign|ResourceCountUpTo|DestroyResourceOp"
    r"|DisableCopyOnRead|Empty|DeepCopy"
    # tables
    r"|(Anonymous)?(Mutable(Dense)?)?HashTable(OfTensors)?(V2)?"
    r"|LookupTable(Export|Find|Import|Insert|Remove|Size)V2"
    r"|InitializeTable(V2|FromDataset)"
    # random numbers
    r"|Random(Crop|Gamma|Poisson(V2)?|Shuffle|StandardNormal|Uniform(Int)?)"
    r"|Stateful(RandomBinomial|StandardNormal(V2)?|TruncatedNormal|Uniform(Full)?(Int)?)"
    r"|Multinomial|(Parameterized)?TruncatedNormal|NonDeterministicInts"
    r"|Rng(ReadAndSkip|Skip)|StatelessRandomGetAlg|SampleDistortedBoundingBox(V2)?"
    r"|(Anonymous|Delete|Dummy)(Random)?SeedGenerator"
    r"|(All|LogUniform|Uniform|ThreadUnsafeUnigram|LearnedUnigram)CandidateSampler"
    # calls, branches and loops, whose functions are looked at too
    r"|StatefulPartitionedCall|If|Case|While|Xla(CallModule|If|Launch|While)"
    r"|MutexV2|MutexLock|ConsumeMutexLock|_Arg|_Retval"
    # arrays, stacks, ragged and sparse values
    r"|TensorArray\w*|Stack(V2|(Close|Pop|Push)V2)?"
    r"|Add(Many)?SparseToTensorsMap|TakeManySparseFromTensorsMap"
    # datasets of what the graph holds, and iterators over them
    r"|(Range|Tensor|TensorSlice|SparseTensorSlice|Generator|Random)Dataset(V2)?"
    r"|(Reduce|GroupByReducer|GlobalShuffle|ShuffleAndRepeat|Shuffle)Dataset(V\d)?"
    r"|DatasetToSingleElement|(Anonymous|OneShot)?Iterator(V\d)?|DeleteIterator"
    r"|MakeIterator|IteratorGetNext(AsOptional|Sync)?"
    # layers and trees that keep their weights in a resource
    r"|CudnnRNN(Backprop)?(V\d)?|(Is)?BoostedTrees(?!\w*Debug)\w+"
    # checks, logs and facts about the process
    r"|Assert|CheckNumerics(V2)?|Print|PrintV2|GuaranteeConst|DeviceIndex|Timestamp"
    r"|IsTensorFloat32Enabled"
)
_STREAMS = (b"stdout", b"stderr", b"log(info)", b"log(warning)", b"log(error)")
_PROTOS = (b"", b"local://")

# Operations that may read files of the model itself, and which input names the file.
READS = {
    "InitializeTableFromTextFile": 1,
    "InitializeTableFromTextFileV2": 1,
    "ReadFile": 0,
    "Restore": 0,
    "RestoreSlice": 0,
    "RestoreV2": 0,
}


def is_harmless(node: Any) -> bool:
    """Whether a node of a graph definition only computes, whatever its inputs are.

    Functions that it calls have to be looked at as well.
    """
    if node.op == "PrintV2":
        return node.attr["output_stream"].s in (b"", *_STREAMS)
    if node.op in ("DecodeProtoV2", "EncodeProto"):
        source = node.attr["descriptor_source"].s
        return source in _PROTOS or source.startswith(b"bytes://")
    return _only_computes(node.op)


def is_stateless(op: str) -> bool:
    """Whether TensorFlow may compute an operation while it only loads a graph.

    It does so to infer shapes, where all inputs are constants.
    """
    definition = _definition(op)
    if definition is None:
        return True
    return not definition.is_stateful and not op.startswith("Placeholder")


def is_known(op: str) -> bool:
    """Whether TensorFlow, with the libraries that are loaded, has an operation."""
    return _definition(op) is not None


@cache
def _only_computes(op: str) -> bool:
    definition = _definition(op)
    if definition is None:
        return False
    if definition.is_stateful:
        return _HARMLESS.fullmatch(op) is not None
    named = [*definition.input_arg, *definition.attr]
    return not _OUTSIDE.search(op) and not any(_PLACES.search(a.name) for a in named)


def _definition(op: str) -> Any:
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(op)
