# nvcc 13.0.88 and the CUDA runtime from NVIDIA's wheels, unpacked by scripts/setup.sh, and LibTorch's GPU half. License: NVIDIA CUDA EULA.
# No CMake language CUDA: it would look for a device and a toolkit of its own, and a kernel needs one command (docs/decisions/006-nvcc-from-wheels.md).
#   LONGLORA_NVCC      found everywhere the pinned nvcc is: the compile gates use it too
#   longlora_kernel_objects(OUT SOURCE...)    compiles .cu files; flags in third_party/nvcc_flags.txt, the compiler's report in OBJECT.log
#   cudart_static     the CUDA runtime inside a program, for kernel tests and benches
#   torch_allocator   LibTorch's streams and GPU allocator with the runtime they share; the operators are loaded when there is a driver
#   torch_gpu         the same with the operators linked, for a program that always uses a GPU

set(LONGLORA_CUDA_ROOT "${LONGLORA_DEPS}/site/nvidia/cu13")
find_program(LONGLORA_NVCC nvcc PATHS ${LONGLORA_CUDA_ROOT}/bin NO_DEFAULT_PATH)
find_program(LONGLORA_NVCC nvcc PATHS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
if(NOT LONGLORA_CUDA)
  return()
endif()
if(NOT LONGLORA_NVCC)
  message(FATAL_ERROR "nvcc is not in ${LONGLORA_DEPS}; run scripts/setup.sh --cuda first")
endif()
if(NOT EXISTS "${LONGLORA_DEPS}/stamps/cuda-libraries")
  message(FATAL_ERROR "the libraries of LibTorch's GPU half are not in ${LONGLORA_DEPS}; run scripts/setup.sh --cuda first")
endif()
message(STATUS "nvcc: ${LONGLORA_NVCC}")

file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/nvcc_flags.txt LONGLORA_NVCC_FLAGS)
set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/nvcc_flags.txt)
set(LONGLORA_NVCC_LOGGED ${CMAKE_CURRENT_LIST_DIR}/nvcc_logged.sh)

function(longlora_kernel_objects out)
  set(objects)
  foreach(source IN LISTS ARGN)
    file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR} ${source})
    set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
    cmake_path(GET object PARENT_PATH folder)
    file(MAKE_DIRECTORY ${folder})
    # dependencies by -MD into DEPFILE; relative to the source tree like the other objects, so that clones share one ccache
    add_custom_command(OUTPUT ${object}
      COMMAND ${LONGLORA_NVCC_LOGGED} ${object}.log ${CMAKE_CXX_COMPILER_LAUNCHER} ${LONGLORA_NVCC} ${LONGLORA_NVCC_FLAGS}
        -I${PROJECT_SOURCE_DIR}/include -I${PROJECT_SOURCE_DIR}/kernels -MD -MF ${object}.d -c ${source} -o ${object}
      DEPENDS ${source} DEPFILE ${object}.d COMMENT "Compiling kernels of ${name}" VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  set(${out} ${objects} PARENT_SCOPE)
endfunction()

find_package(Threads REQUIRED)
# kernel tests and benches carry the runtime inside: they run wherever a driver is
add_library(cudart_static INTERFACE)
target_include_directories(cudart_static SYSTEM INTERFACE ${LONGLORA_CUDA_ROOT}/include)
target_link_libraries(cudart_static INTERFACE ${LONGLORA_CUDA_ROOT}/lib/libcudart_static.a Threads::Threads ${CMAKE_DL_LIBS} rt)

# LibTorch's CUDA headers include cuBLAS's and cuSPARSE's, which lie beside the libraries: in the wheel, or in the toolkit that setup.sh linked
file(REAL_PATH ${LONGLORA_CUDA_ROOT}/lib/libcublas.so.13 cublas)
cmake_path(GET cublas PARENT_PATH cublas)
find_path(LONGLORA_CUBLAS_INCLUDE cublas_v2.h PATHS ${LONGLORA_CUDA_ROOT}/include ${cublas}/../include ${cublas}/../../../include
  REQUIRED NO_DEFAULT_PATH)
# the program shares LibTorch's runtime: one set of contexts and streams
add_library(torch_allocator INTERFACE)
target_include_directories(torch_allocator SYSTEM INTERFACE ${LONGLORA_CUDA_ROOT}/include ${LONGLORA_CUBLAS_INCLUDE})
target_link_libraries(torch_allocator INTERFACE ${LONGLORA_TORCH}/lib/libc10_cuda.so ${LONGLORA_CUDA_ROOT}/lib/libcudart.so.13 ${CMAKE_DL_LIBS})
add_library(torch_gpu INTERFACE)
# libtorch_cuda.so registers its operators when it is loaded; nothing refers to it by name, so the linker must be told to keep it
target_link_libraries(torch_gpu INTERFACE torch_allocator "-Wl,--push-state,--no-as-needed,${LONGLORA_TORCH}/lib/libtorch_cuda.so,--pop-state")
# nccl.h lies beside the library in the wheel and in a toolkit
file(REAL_PATH ${LONGLORA_DEPS}/site/nvidia/nccl/lib/libnccl.so.2 nccl)
cmake_path(GET nccl PARENT_PATH nccl)
find_path(LONGLORA_NCCL_INCLUDE nccl.h PATHS ${LONGLORA_DEPS}/site/nvidia/nccl/include ${nccl}/../include ${nccl}/../../include
  REQUIRED NO_DEFAULT_PATH)
foreach(folder cudnn nccl cusparselt nvshmem)
  target_link_options(torch_gpu INTERFACE -Wl,-rpath-link,${LONGLORA_DEPS}/site/nvidia/${folder}/lib)
endforeach()
