"""Make a graph take letterboxed uint8 pictures (B, H, W, 3) and scale them itself."""

from pathlib import Path
from typing import TYPE_CHECKING

from export.artifact.manifest import Manifest, file_sha256, read_manifest, write_manifest
from export.errors import ExportError
from export.graph.edit import read_graph, save_checked, tidy
from export.optional import require

if TYPE_CHECKING:
    import onnx


def take_uint8(path: Path) -> Manifest:
    """Rewrite the ONNX file at `path` and its sidecar to take uint8 pictures, channels last.

    A quarter of the bytes to copy to the device, and no conversion on the host. The values are
    those of `export.pictures.images.to_tensor`.

    Raises:
        ExportError: the artifact takes uint8 already.
    """
    sidecar = path.with_suffix(".json")
    manifest = read_manifest(sidecar)
    if manifest.input.format == "uint8":
        raise ExportError(f"{path}: takes uint8 pictures already")
    save_checked(with_uint8_input(read_graph(path), manifest), path)
    filled = manifest.model_copy(
        update={
            "input": manifest.input.model_copy(update={"format": "uint8"}),
            "sha256": file_sha256(path),
        }
    )
    write_manifest(filled, sidecar)
    return filled


def with_uint8_input(model: "onnx.ModelProto", manifest: Manifest) -> "onnx.ModelProto":
    """Return `model` (`onnx.ModelProto`) behind a conversion from uint8.

    The cast comes first: TensorRT supports no other operator on a uint8 input.
    """
    onnx = require("onnx", extra="train", purpose="Changing a graph's input")
    spec = manifest.input
    dimension = model.graph.input[0].type.tensor_type.shape.dim[0]
    batch = dimension.dim_value or dimension.dim_param
    opset = next(o.version for o in model.opset_import if o.domain == "")
    size = f"{spec.height},{spec.width}"
    front = onnx.parser.parse_model(
        f"""<ir_version: {model.ir_version}, opset_import: ["" : {opset}]>
        pictures (uint8[{batch},{size},3] uint8_pictures) => (float[{batch},3,{size}] planes_scaled)
        {{
            pictures_float = Cast<to = 1>(uint8_pictures)
            planes = Transpose<perm = [0, 3, 1, 2]>(pictures_float)
            white = Constant<value_float = 255.0>()
            planes_scaled = Div(planes, white)
        }}"""
    )
    for number, node in enumerate(front.graph.node):
        node.name = f"uint8_{number}_{node.op_type}"
    joined = onnx.compose.merge_models(front, model, io_map=[("planes_scaled", spec.name)])
    joined.graph.input[0].name = spec.name
    for node in joined.graph.node:
        for slot, name in enumerate(node.input):
            if name == "uint8_pictures":
                node.input[slot] = spec.name
            elif name == spec.name:
                node.input[slot] = "planes_scaled"
    tidy(joined)
    return joined
