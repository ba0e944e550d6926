"""Which public functions and operations of TensorFlow only compute.

Stored layers of Keras 2 call functions by name: a name that is not here is refused.
"""

from __future__ import annotations

# All functions of these modules but those in _EXCEPT take tensors and give tensors.
_MODULES = frozenset(
    (
        *("__operators__", "audio", "bitwise", "image", "linalg", "math", "nn"),
        *("quantization", "ragged", "sets", "signal", "sparse", "strings"),
        *("keras.activations", "keras.losses", "keras.metrics"),
    )
)
_EXCEPT = frozenset(
    (
        *("fixed_unigram_candidate_sampler",),  # reads a file
        *("deserialize", "get", "serialize"),  # turn text into objects of Keras
    )
)
_FUNCTIONS = {
    "": """
        abs accumulate_n acos acosh add add_n angle argmax argmin argsort as_string asin
        asinh atan atan2 atanh batch_gather batch_to_space batch_to_space_nd bincount
        bitcast boolean_mask broadcast_dynamic_shape broadcast_static_shape broadcast_to
        case cast ceil check_numerics cholesky cholesky_solve clip_by_average_norm
        clip_by_global_norm clip_by_norm clip_by_value complex concat cond conj constant
        convert_to_tensor cos cosh count_nonzero cross cumprod cumsum decode_base64
        decode_csv decode_raw depth_to_space diag diag_part digamma div div_no_nan
        divide dynamic_partition dynamic_stitch edit_distance einsum encode_base64
        ensure_shape equal erf erfc exp expand_dims expm1 extract_image_patches
        extract_volume_patches eye fft fft2d fft3d fill fingerprint floor floor_div
        floordiv floormod gather gather_nd global_norm greater greater_equal
        guarantee_const histogram_fixed_width histogram_fixed_width_bins identity
        identity_n ifft ifft2d ifft3d igamma igammac imag invert_permutation is_finite
        is_inf is_nan lbeta less less_equal lgamma lin_space linspace log log1p
        log_sigmoid logical_and logical_not logical_or logical_xor matmul
        matrix_band_part matrix_determinant matrix_diag matrix_diag_part matrix_inverse
        matrix_set_diag matrix_solve matrix_square_root matrix_transpose maximum
        meshgrid minimum mod multinomial multiply negative no_op norm not_equal one_hot
        ones ones_like pad parallel_stack polygamma pow qr random_crop random_gamma
        random_normal random_poisson random_shuffle random_uniform range rank real
        realdiv reciprocal reduce_all reduce_any reduce_join reduce_logsumexp reduce_max
        reduce_mean reduce_min reduce_prod reduce_sum regex_replace repeat reshape
        reverse reverse_sequence reverse_v2 rint roll round rsqrt saturate_cast
        scalar_mul scatter_nd searchsorted segment_max segment_mean segment_min
        segment_prod segment_sum self_adjoint_eig sequence_mask setdiff1d shape shape_n
        sigmoid sign sin sinh size slice sort space_to_batch space_to_batch_nd
        space_to_depth sparse_tensor_dense_matmul sparse_tensor_to_dense
        sparse_to_dense split sqrt square squared_difference squeeze stack stop_gradient
        strided_slice string_join string_split string_strip string_to_hash_bucket
        string_to_hash_bucket_fast string_to_number substr subtract svd switch_case tan
        tanh tensor_scatter_add tensor_scatter_nd_add tensor_scatter_nd_max
        tensor_scatter_nd_min tensor_scatter_nd_sub tensor_scatter_nd_update
        tensor_scatter_sub tensor_scatter_update tensordot tile to_bfloat16 to_double
        to_float to_int32 to_int64 trace transpose truediv truncated_normal truncatediv
        truncatemod tuple unique unique_with_counts unravel_index unsorted_segment_max
        unsorted_segment_mean unsorted_segment_min unsorted_segment_prod
        unsorted_segment_sum unstack verify_tensor_all_finite where where_v2
        zeros zeros_like zeta
    """,
    "dtypes": "cast complex saturate_cast",
    "io": """
        decode_and_crop_jpeg decode_base64 decode_bmp decode_compressed decode_csv
        decode_gif decode_image decode_jpeg decode_png decode_raw decode_webp
        encode_base64 encode_jpeg encode_png extract_jpeg_shape is_jpeg parse_example
        parse_single_example parse_tensor serialize_tensor
    """,
    "random": """
        categorical gamma normal poisson shuffle stateless_binomial
        stateless_categorical stateless_gamma stateless_normal stateless_poisson
        stateless_truncated_normal stateless_uniform truncated_normal uniform
    """,
    "keras.backend": """
        abs all any arange argmax argmin batch_dot batch_flatten batch_normalization
        bias_add binary_crossentropy cast cast_to_floatx categorical_crossentropy clip
        concatenate constant conv1d conv2d conv2d_transpose conv3d cos cumprod cumsum
        depthwise_conv2d dot dropout dtype elu equal exp expand_dims eye flatten gather
        greater greater_equal hard_sigmoid in_top_k l2_normalize less less_equal log
        max maximum mean min minimum not_equal one_hot ones ones_like
        permute_dimensions pool2d pool3d pow prod random_normal random_uniform relu
        repeat repeat_elements reshape resize_images resize_volumes reverse round
        separable_conv2d shape sigmoid sign sin softmax softplus softsign
        spatial_2d_padding spatial_3d_padding sqrt square squeeze stack std
        stop_gradient sum switch tanh temporal_padding tile to_dense transpose
        truncated_normal
    """,
}
_NAMES = frozenset(
    f"{module}.{name}".lstrip(".")
    for module, names in _FUNCTIONS.items()
    for name in names.split()
)
# Early versions of Keras 2 stored operations of the graph instead of functions.
_OPERATION_NAMES = """
    Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin AsString Asin Asinh Atan Atan2
    Atanh AvgPool BatchMatMul BatchMatMulV2 BatchToSpaceND BiasAdd Bincount Bitcast
    BroadcastTo Cast Ceil ClipByValue Complex ComplexAbs Concat ConcatV2 Conj Const
    Conv2D Conv2DBackpropInput Conv3D Cos Cosh CropAndResize Cross Cumprod Cumsum
    DecodeBase64 DecodeJpeg DecodePng DecodeRaw DepthToSpace DepthwiseConv2dNative Diag
    DiagPart Div DivNoNan DynamicPartition DynamicStitch Einsum Elu Equal Erf Erfc Exp
    ExpandDims Expm1 ExtractImagePatches FFT FFT2D Fill Floor FloorDiv FloorMod
    FusedBatchNorm FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual IFFT
    IRFFT Identity IdentityN Imag InvertPermutation IsFinite IsInf IsNan L2Loss LRN
    LeakyRelu Less LessEqual Lgamma LinSpace Log Log1p LogSoftmax LogicalAnd LogicalNot
    LogicalOr MatMul MatrixBandPart MatrixDeterminant MatrixDiag MatrixDiagPart
    MatrixDiagV3 MatrixInverse MatrixSetDiag MatrixSolve Max MaxPool Maximum Mean Min
    Minimum MirrorPad Mod Mul MulNoNan Neg NotEqual OneHot OnesLike Pack Pad PadV2 Pow
    Prod RFFT Range Rank Real RealDiv Reciprocal RegexReplace Relu Relu6 Reshape
    ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor ReverseSequence
    ReverseV2 RgbToHsv HSVToRGB Rint Roll Round Rsqrt ScatterNd SegmentMax SegmentMean
    SegmentSum Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh Size Slice
    Softmax Softplus Softsign SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square
    SquaredDifference Squeeze StopGradient StridedSlice StringJoin StringLower
    StringSplitV2 StringStrip StringToHashBucketFast StringToNumber StringUpper Sub
    Substr Sum Svd Tan Tanh TensorScatterUpdate Tile TopK TopKV2 Transpose TruncateDiv
    TruncateMod Unique Unpack UnsortedSegmentMax UnsortedSegmentSum Where Xdivy Xlogy
    ZerosLike
"""
_OPERATIONS = frozenset(_OPERATION_NAMES.split())


def is_pure_function(symbol: str) -> bool:
    """Whether a function only computes, by its public name without `tf.`.

    >>> is_pure_function("nn.relu"), is_pure_function("compat.v1.write_file")
    (True, False)
    """
    symbol = symbol.removeprefix("compat.v1.")
    module, _, name = symbol.rpartition(".")
    if symbol in _NAMES:
        return True
    return module in _MODULES and name not in _EXCEPT and name[:1].islower()


def is_pure_operation(kind: str) -> bool:
    """Whether an operation of a graph only computes, by its type."""
    return kind in _OPERATIONS
