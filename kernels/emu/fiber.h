#pragma once
// Fibers: stacks of their own and a switch between them, with the annotations that AddressSanitizer and ThreadSanitizer need.
#include <cstddef>

namespace longlora::emu {

class Fiber {
 public:
  Fiber() = default;  // the thread that launches
  explicit Fiber(size_t stack_bytes);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  /// The next switch to this fiber calls `entry`, which must never return.
  void prepare(void (*entry)());
  enum class Leaving { for_now, for_good };
  /// Goes on in `to`; returns when somebody switches back. `for_good`: this stack is not used again before `prepare`.
  void switch_to(Fiber& to, Leaving = Leaving::for_now);
  /// First call of an entry function.
  static void entered(Fiber& self);

 private:
  char* stack_ = nullptr;  // lowest address, a guard page below it
  size_t bytes_ = 0;
  void* saved_ = nullptr;       // stack pointer
  void* shadow_ = nullptr;      // AddressSanitizer's fake stack
  void* race_state_ = nullptr;  // ThreadSanitizer's fiber
};

}  // namespace longlora::emu
