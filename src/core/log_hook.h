#pragma once
// What the final error line shares with the log: the progress bar must be cleared before either is written.
namespace longlora {
void run_before_log_hook() noexcept;
}  // namespace longlora
