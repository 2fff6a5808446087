# LibTorch 2.11.0 from its wheel, unpacked by scripts/setup.sh, used without Python. License: BSD-3-Clause.
# Own find module: TorchConfig.cmake wants the whole CUDA toolkit even for a CPU program.

set(LONGLORA_TORCH "${LONGLORA_DEPS}/site/torch")
if(NOT EXISTS "${LONGLORA_TORCH}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch is not in ${LONGLORA_DEPS}; run scripts/setup.sh first")
endif()

add_library(torch_cpu_only INTERFACE)
target_include_directories(torch_cpu_only SYSTEM INTERFACE ${LONGLORA_TORCH}/include)
# the wheel brings its own fmt headers, which win over the distribution's in files that see tensors; its library is not exported
target_compile_definitions(torch_cpu_only INTERFACE FMT_HEADER_ONLY=1)
target_link_libraries(torch_cpu_only INTERFACE
  ${LONGLORA_TORCH}/lib/libtorch_cpu.so ${LONGLORA_TORCH}/lib/libc10.so ${LONGLORA_TORCH}/lib/libgomp.so.1)
# at::parallel_for is an inline OpenMP region: without the flag it runs on one thread, silently. One libgomp in the process: LibTorch's.
target_compile_options(torch_cpu_only INTERFACE -fopenmp)
# libtorch_cpu.so itself needs libcudart.so.13 and libcupti.so.13 from their wheels, and its own libgomp.
set(LONGLORA_RPATH "${LONGLORA_TORCH}/lib;${LONGLORA_DEPS}/site/nvidia/cu13/lib;${LONGLORA_DEPS}/site/nvidia/cusparselt/lib;${LONGLORA_DEPS}/site/nvidia/nvshmem/lib")
set(CMAKE_BUILD_RPATH "${LONGLORA_RPATH}")
target_link_options(torch_cpu_only INTERFACE -Wl,-rpath-link,${LONGLORA_TORCH}/lib:${LONGLORA_DEPS}/site/nvidia/cu13/lib)
