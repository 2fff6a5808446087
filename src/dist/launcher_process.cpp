#include "dist/launcher_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

/// Pointers for exec; the strings must outlive them.
std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old_);
  }
  ~AllSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &old_, nullptr); }

 private:
  sigset_t old_;
};

/// The child between fork and exec: other threads of the launcher may have held any lock, so only calls that are safe in a signal
/// handler.
[[noreturn]] void become(char* const* arguments, char* const* environment, pid_t launcher, int null, int out, int error, int report) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != launcher) ::_exit(128 + SIGKILL);  // it died before the line above
  ::dup2(null, STDIN_FILENO);
  ::dup2(out, STDOUT_FILENO);
  ::dup2(error, STDERR_FILENO);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);  // ignored ones would stay ignored over exec
  sigset_t none;
  sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
  ::execvpe(arguments[0], arguments, environment);
  const int problem = errno;
  [[maybe_unused]] const ssize_t ignored = ::write(report, &problem, sizeof problem);
  ::_exit(127);
}

}  // namespace

Spawned spawn(const std::vector<std::string>& command, const Environment& environment) {
  std::vector<std::string> variables;
  for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
  const std::vector<char*> argument_pointers = pointers(command), variable_pointers = pointers(variables);
  Spawned child{.output = {make_pipe(), make_pipe()}};
  Pipe report = make_pipe();
  const Descriptor null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null) fail_errno(errno, "open", "/dev/null");
  const pid_t launcher = ::getpid();
  {
    const AllSignalsBlocked until_forked;  // the child must not run our handlers
    child.pid = ::fork();
    if (child.pid == 0)
      become(argument_pointers.data(), variable_pointers.data(), launcher, null.get(), child.output[0].write.get(),
             child.output[1].write.get(), report.write.get());
  }
  if (child.pid < 0) fail_errno(errno, "fork", command.front());
  ::setpgid(child.pid, child.pid);  // whoever of the two comes first; a failure means that the child has done it and is past exec
  for (Pipe& pipe : child.output) {
    pipe.write.reset();
    make_nonblocking(pipe.read);
  }
  report.write.reset();
  int problem = 0;
  ssize_t n;
  while ((n = ::read(report.read.get(), &problem, sizeof problem)) < 0 && errno == EINTR) {
  }
  if (n == 0) return child;  // closed by exec
  ::waitpid(child.pid, nullptr, 0);
  fail_errno(problem, "starting the program", command.front());
}

}  // namespace longlora::dist
