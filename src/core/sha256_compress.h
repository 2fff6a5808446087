#pragma once
// The compression function that runs where the CPU has no SHA extensions; visible so that tests reach it everywhere.
#include <array>
#include <cstddef>
#include <cstdint>
namespace longlora {
void compress_portable(std::array<uint32_t, 8>& state, const uint8_t* data, size_t blocks);
}  // namespace longlora
