# The GPU path without a GPU: the operations compiled a second time with their kernel side (LONGLORA_KERNELS), launches go to the emulated
# kernels, tensors live in the arena of a fake LibTorch backend.
if(NOT TARGET longlora_kernels_emu OR NOT EXISTS ${PROJECT_SOURCE_DIR}/kernels/rms_norm)
  return()
endif()
file(GLOB device_ops CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/*.cpp ${PROJECT_SOURCE_DIR}/src/ops/device/*.cpp)
add_library(longlora_ops_device OBJECT EXCLUDE_FROM_ALL ${device_ops})
target_compile_definitions(longlora_ops_device PRIVATE LONGLORA_KERNELS=1)
target_compile_options(longlora_ops_device PRIVATE ${LONGLORA_WARNINGS})
target_include_directories(longlora_ops_device PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_link_libraries(longlora_ops_device PRIVATE longlora_core longlora_config torch_cpu_only)
target_precompile_headers(longlora_ops_device REUSE_FROM longlora_torch_pch)

longlora_test(device TORCH LINK train LABELS unit)
if(TARGET test_device)
  set_tests_properties(device PROPERTIES PROCESSORS 1)  # the emulator is one thread
endif()
# objects come before archives: every symbol of longlora_ops is taken from here
target_sources(test_device PRIVATE $<TARGET_OBJECTS:longlora_ops_device>)
target_link_libraries(test_device PRIVATE longlora_kernels_emu)
# void longlora::emu::run_blocks(int64_t, int, int64_t, Body, const void*): the fake device opens its memory around it
set(run_blocks _ZN8longlora3emu10run_blocksElilPFvPKvES2_)
target_compile_definitions(test_device PRIVATE LONGLORA_REAL_RUN_BLOCKS=__real_${run_blocks} LONGLORA_WRAP_RUN_BLOCKS=__wrap_${run_blocks})
target_link_options(test_device PRIVATE -Wl,--wrap=${run_blocks})
