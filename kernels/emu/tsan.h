#pragma once
// What the emulator tells ThreadSanitizer. Its own files are compiled without -fsanitize=thread even in that build: the fibers' bookkeeping
// is shared by design and must not look like a kernel's race.
#if defined(LONGLORA_EMU_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

namespace longlora::emu {

#if defined(LONGLORA_EMU_TSAN)
inline void release(void* at) { __tsan_release(at); }
inline void acquire(void* at) { __tsan_acquire(at); }
/// What the runtime itself does in a fiber (allocations, containers) is no access of the kernel.
struct Unwatched {
  Unwatched() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unwatched() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};
/// Around a switch to another fiber: one that is never resumed, after a fault, must not stay unwatched.
struct Watched {
  Watched() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
  ~Watched() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
};
#else
struct Unwatched {
  Unwatched() {}
};
struct Watched {
  Watched() {}
};
inline void release(void*) {}
inline void acquire(void*) {}
#endif

}  // namespace longlora::emu
