#pragma once
// The decoder steps of tokenizer.json: token texts back to text. Each step maps the list of texts to another list.

#include <string>
#include <variant>
#include <vector>

#include "tokenizer/text_steps.h"

namespace longlora {

struct ByteLevelDecoder {};                                      // the byte alphabet back to bytes; invalid UTF-8 becomes U+FFFD
struct ByteFallbackDecoder {};                                   // runs of <0xNN> to text; an invalid run to one U+FFFD a byte
struct FuseDecoder {};                                           // one text out of all
struct StripDecoder { char32_t content; size_t start, stop; };   // at most so many at the start and at the end of each text
struct ReplaceDecoder { std::string from, to; };
struct MetaspaceDecoder { std::string replacement; PrependScheme scheme; };
using Decoder = std::variant<ByteLevelDecoder, ByteFallbackDecoder, FuseDecoder, StripDecoder, ReplaceDecoder, MetaspaceDecoder>;

/// All steps in order, then the texts joined; without any step the texts are joined by spaces.
std::string run_decoders(const std::vector<Decoder>&, std::vector<std::string> texts);

}  // namespace longlora
