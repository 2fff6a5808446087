# sentencepiece 0.2.1, built statically from its sdist by scripts/setup.sh with hidden symbols. License: Apache-2.0.
add_library(sentencepiece_static INTERFACE)
set(LONGLORA_SENTENCEPIECE "${LONGLORA_DEPS}/sentencepiece")
if(NOT EXISTS "${LONGLORA_SENTENCEPIECE}/lib/libsentencepiece.a")
  message(FATAL_ERROR "sentencepiece is not in ${LONGLORA_DEPS}; run scripts/setup.sh first")
endif()
target_include_directories(sentencepiece_static SYSTEM INTERFACE ${LONGLORA_SENTENCEPIECE}/include)
target_link_libraries(sentencepiece_static INTERFACE ${LONGLORA_SENTENCEPIECE}/lib/libsentencepiece.a)
target_link_options(sentencepiece_static INTERFACE -Wl,--exclude-libs,libsentencepiece.a)
