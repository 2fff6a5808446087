#include "emu/fiber.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__) || defined(LONGLORA_EMU_TSAN)
#include <sanitizer/tsan_interface.h>
#define LONGLORA_RACES 1
#endif

#if defined(__x86_64__)
// Saves what the System V ABI lets a callee expect, exchanges the stacks, returns on the other one. 10 ns where swapcontext, with its
// system call for the signal mask, takes 300.
extern "C" void longlora_switch_stacks(void** save, void* to);
asm(R"(
.text
.globl longlora_switch_stacks
.hidden longlora_switch_stacks
.type longlora_switch_stacks,@function
longlora_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size longlora_switch_stacks,.-longlora_switch_stacks
)");
#else
#include <ucontext.h>
#endif

namespace longlora::emu {

Fiber::Fiber(size_t stack_bytes) : bytes_(stack_bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* p = mmap(nullptr, bytes_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED || mprotect(p, page, PROT_NONE) != 0) {
    std::fputs("emulator: no memory for a fiber's stack\n", stderr);
    std::abort();
  }
  stack_ = static_cast<char*>(p) + page;
#if LONGLORA_RACES
  race_state_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
  if (stack_ == nullptr) return;
#if LONGLORA_RACES
  __tsan_destroy_fiber(race_state_);
#endif
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  munmap(stack_ - page, bytes_ + page);
#if !defined(__x86_64__)
  delete static_cast<ucontext_t*>(saved_);
#endif
}

void Fiber::prepare(void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, bytes_);  // what the last use of this stack left
  shadow_ = nullptr;
#endif
#if defined(__x86_64__)
  auto* top = reinterpret_cast<void**>(stack_ + bytes_);
  *--top = nullptr;                         // return address of entry: it must not return
  *--top = reinterpret_cast<void*>(entry);  // at entry the stack is 8 bytes off 16, as after a call
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  saved_ = top;
#else
  if (saved_ == nullptr) saved_ = new ucontext_t;
  auto* context = static_cast<ucontext_t*>(saved_);
  getcontext(context);
  context->uc_stack.ss_sp = stack_;
  context->uc_stack.ss_size = bytes_;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
#endif
}

void Fiber::entered(Fiber& self) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(self.shadow_, nullptr, nullptr);
#else
  (void)self;
#endif
}

void Fiber::switch_to(Fiber& to, [[maybe_unused]] Leaving leaving) {
#if LONGLORA_RACES
  if (race_state_ == nullptr) race_state_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.race_state_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
  if (to.stack_ == nullptr) {  // the launching thread's own stack
    pthread_attr_t attributes;
    void* bottom = nullptr;
    size_t size = 0;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &size);
    pthread_attr_destroy(&attributes);
    __sanitizer_start_switch_fiber(leaving == Leaving::for_good ? nullptr : &shadow_, bottom, size);
  } else {
    __sanitizer_start_switch_fiber(leaving == Leaving::for_good ? nullptr : &shadow_, to.stack_, to.bytes_);
  }
#endif
#if defined(__x86_64__)
  longlora_switch_stacks(&saved_, to.saved_);
#else
  if (saved_ == nullptr) saved_ = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(saved_), static_cast<ucontext_t*>(to.saved_));
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(shadow_, nullptr, nullptr);
#endif
}

}  // namespace longlora::emu
