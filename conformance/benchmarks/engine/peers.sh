#!/bin/sh
# Makes the peers under target/peers: peers.sh.  What is already made is kept.
#
#   python/       the venv that the scripts run in, with openvino-genai and onnxruntime
#   conversion/   the venv with torch and optimum-intel, which converts the models and takes no part in a measurement
#   llama.cpp/    the llama.cpp inside the source distribution of PyPI's llama-cpp-python, compiled for this processor
#
# JOBS compilers run at a time (1 if unset).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
peers=$here/../../../target/peers
venv=$here/../../clients/venv.sh
version=0.3.36
mkdir -p "$peers"

sh "$venv" "$here/requirements.txt" "$peers/python"
sh "$venv" "$here/requirements-conversion.txt" "$peers/conversion"

if [ ! -x "$peers/llama.cpp/bin/llama-server" ]; then
    archive=$peers/source/llama_cpp_python-$version.tar.gz
    if [ ! -f "$archive" ]; then
        "$peers/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
            --dest "$peers/source" "llama-cpp-python==$version"
    fi
    tar -xzf "$archive" -C "$peers/source"
    export PATH="$peers/python/bin:$PATH"
    # Everything else is as it comes: OpenMP, repacked weights, llamafile's kernels.
    cmake -S "$peers/source/llama_cpp_python-$version/vendor/llama.cpp" -B "$peers/llama.cpp" -G Ninja \
        -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    # The server comes last: a build that was interrupted goes on.
    cmake --build "$peers/llama.cpp" --parallel "${JOBS:-1}" --target llama-bench llama-quantize llama-cli
    cmake --build "$peers/llama.cpp" --parallel "${JOBS:-1}" --target llama-server
fi
