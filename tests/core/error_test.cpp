// The final line, the exit codes, and the only catch of the program.

#include "longlora/core/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <new>
#include <set>
#include <stdexcept>

#include "longlora/core/text.h"
#include "support/error_of.h"

namespace longlora {
namespace {

TEST(ExitCodes, AreTheTableOfTheSpecification) {
  const std::pair<int, std::string_view> expected[] = {
      {64, "usage"},     {65, "data"}, {66, "missing"},    {70, "internal"}, {71, "memory"},  {73, "busy"},          {74, "io"},
      {75, "preempted"}, {76, "peer"}, {77, "permission"}, {78, "config"},   {79, "numeric"}, {80, "no-checkpoint"}, {81, "mismatch"}};
  ASSERT_EQ(exit_codes().size(), std::size(expected));
  std::set<ErrorKind> kinds;
  for (size_t i = 0; i < std::size(expected); ++i) {
    EXPECT_EQ(exit_codes()[i].code, expected[i].first);
    EXPECT_EQ(exit_codes()[i].name, expected[i].second);
    EXPECT_FALSE(exit_codes()[i].sentence.empty());
    EXPECT_EQ(exit_code(exit_codes()[i].kind).code, expected[i].first);
    EXPECT_EQ(kind_of_code(expected[i].first), exit_codes()[i].kind);
    EXPECT_EQ(exit_codes()[i].retry_unchanged, expected[i].first == 75 || expected[i].first == 76);
    kinds.insert(exit_codes()[i].kind);
  }
  EXPECT_EQ(kinds.size(), std::size(expected));
  EXPECT_EQ(kind_of_code(0), std::nullopt);
}

TEST(ErrorLine, HasTheFormOfTheSpecification) {
  EXPECT_EQ(error_line(Error(ErrorKind::config, "attention.group_size: got 1001, must be even", "run.yaml:14:15", "use 1000 or 1002")),
            "longlora-train: error[config]: attention.group_size: got 1001, must be even (run.yaml:14:15); use 1000 or 1002");
}

TEST(ErrorLine, IsOneShortLineWhateverStandsInIt) {
  const std::string texts[] = {"",
                               "short",
                               std::string(50, 'w'),
                               std::string(150, 'w'),
                               std::string(5000, 'w'),
                               std::string(500, '\n'),
                               std::string(400, '\xff'),
                               "\xf0\x9f\xa6\x99 llama \x1b[31m"};
  for (const ErrorKind kind : {ErrorKind::io, ErrorKind::no_checkpoint})
    for (const std::string& what : texts)
      for (const std::string& where : texts)
        for (const std::string& to_do : texts) {
          const std::string line = error_line(Error(kind, what, where, to_do));
          ASSERT_LE(line.size(), 240u);
          ASSERT_TRUE(line.starts_with("longlora-train: error["));
          ASSERT_EQ(line.find('\n'), std::string::npos);
          ASSERT_FALSE(invalid_utf8_at(line).has_value());
        }
}

TEST(ErrorLine, WhatIsShortenedInTheMiddleAndWhatToDoNever) {
  const std::string what = "begin " + std::string(400, '.') + " end", to_do = "do exactly this: " + std::string(80, 'x');
  const std::string line = error_line(Error(ErrorKind::data, what, "file.json:1:2", to_do));
  EXPECT_TRUE(line.ends_with(" (file.json:1:2); " + to_do)) << line;
  EXPECT_TRUE(line.starts_with("longlora-train: error[data]: begin ")) << line;
  EXPECT_NE(line.find(" end (file"), std::string::npos) << line;
  EXPECT_EQ(line.size(), 240u);
}

TEST(Escape, MakesEveryByteVisible) {
  EXPECT_EQ(escape("a\tb\n\x1b\x7f"), "a\\x09b\\x0a\\x1b\\x7f");
  EXPECT_EQ(escape("\xc3\xa4\xff\xc3"), "\xc3\xa4\\xff\\xc3");
  EXPECT_EQ(escape("\xc2\x85"), "\\xc2\\x85") << "C1 control characters move cursors too";
  EXPECT_EQ(escape(std::string(200, 'a') + std::string(200, 'b'), 21), "aaaaaaaaa...bbbbbbbbb");
  EXPECT_EQ(escape("0123456789", 9), "012...789");
  for (size_t limit = 3; limit < 40; ++limit) {
    const std::string shortened = escape("\xf0\x9f\xa6\x99\xf0\x9f\xa6\x99\n\n\n\xf0\x9f\xa6\x99\xf0\x9f\xa6\x99\xf0\x9f\xa6\x99", limit);
    EXPECT_LE(shortened.size(), limit);
    EXPECT_FALSE(invalid_utf8_at(shortened).has_value()) << "no character is cut";
  }
}

/// Return code, the observer's view and stderr of a guarded body.
struct Ended {
  int code = -1, hook_code = -1;
  bool hook_had_error = false;
  std::string output;
};
Ended run(const std::function<int()>& body) {
  Ended ended;
  set_end_hook([&](const Error* error, int code) { ended.hook_code = code, ended.hook_had_error = error != nullptr; });
  testing::internal::CaptureStderr();
  ended.code = run_guarded(body);
  ended.output = testing::internal::GetCapturedStderr();
  set_end_hook(nullptr);
  return ended;
}

TEST(RunGuarded, SuccessPrintsNothing) {
  const Ended ended = run([] { return 0; });
  EXPECT_EQ(ended.code, 0);
  EXPECT_EQ(ended.hook_code, 0);
  EXPECT_FALSE(ended.hook_had_error);
  EXPECT_EQ(ended.output, "");
}

TEST(RunGuarded, EveryKindEndsWithItsCodeAndOneFinalLine) {
  for (const ExitCode& row : exit_codes()) {
    const Ended ended = run([&]() -> int { fail(row.kind, "what", "where", "do"); });
    EXPECT_EQ(ended.code, row.code);
    EXPECT_EQ(ended.hook_code, row.code);
    EXPECT_TRUE(ended.hook_had_error);
    EXPECT_EQ(ended.output, "longlora-train: error[" + std::string(row.name) + "]: what (where); do\n");
  }
}

TEST(RunGuarded, DetailsComeFirstAndAreCapped) {
  std::vector<std::string> details;
  for (int i = 0; i < 25; ++i) details.push_back("detail " + std::to_string(i) + "\x01");
  const std::string output = run([&]() -> int { fail(ErrorKind::config, "25 problems", "f", "do", details); }).output;
  const std::vector<std::string> lines = split(output, '\n');
  ASSERT_EQ(lines.size(), 23u);  // 20 details, the rest counted, the final line, and what follows its line end
  EXPECT_EQ(lines[0], "detail 0\\x01");
  EXPECT_EQ(lines[20], "and 5 more");
  EXPECT_EQ(lines[21], "longlora-train: error[config]: 25 problems (f); do");
}

TEST(RunGuarded, ForeignExceptionsAreInternalAndMemoryIsMemory) {
  EXPECT_EQ(run([]() -> int { throw std::bad_alloc(); }).code, 71);
  EXPECT_EQ(
      run([]() -> int { throw std::runtime_error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"); }).code, 71);
  const Ended foreign = run([]() -> int { throw std::runtime_error("something\nodd"); });
  EXPECT_EQ(foreign.code, 70);
  EXPECT_EQ(foreign.output,
            "longlora-train: error[internal]: unexpected exception: something\\x0aodd (outside of any check); report this with the command "
            "and its output\n");
  EXPECT_EQ(run([]() -> int { throw 5; }).code, 70);
  EXPECT_TRUE(run([]() -> int { throw std::bad_alloc(); }).output.starts_with("longlora-train: error[memory]: "));
}

TEST(RunGuarded, AFailingHookChangesNothing) {
  set_end_hook([](const Error*, int) { throw std::runtime_error("disk full"); });
  testing::internal::CaptureStderr();
  EXPECT_EQ(run_guarded([]() -> int { fail(ErrorKind::io, "what", "where", "do"); }), 74);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "longlora-train: error[io]: what (where); do\n");
  set_end_hook(nullptr);
}

TEST(RunGuarded, AnExceptionInAThreadEndsWith70AndTheLine) {
  EXPECT_EXIT(run_guarded([]() -> int { std::terminate(); }), testing::ExitedWithCode(70), "error\\[internal\\]: terminated");
}

TEST(FailErrno, MapsErrorsToKinds) {
  const auto kind_for = [](int number) { return kind_of([&] { fail_errno(number, "writing", "/x"); }); };
  EXPECT_EQ(kind_for(ENOENT), ErrorKind::missing);
  EXPECT_EQ(kind_for(EACCES), ErrorKind::permission);
  EXPECT_EQ(kind_for(EPERM), ErrorKind::permission);
  for (const int number : {EROFS, ENOSPC, EDQUOT, EIO, EFBIG, EMFILE, ESTALE}) EXPECT_EQ(kind_for(number), ErrorKind::io) << number;
  EXPECT_EQ(error_of([] { fail_errno(ENOSPC, "writing", "/x/y"); }),
            "writing failed: No space left on device (/x/y); free disk space or quota, then run the same command again");
}

TEST(Checks, EvaluateTheirTextsOnlyOnFailure) {
  int evaluated = 0;
  const auto text = [&] { return ++evaluated, std::string("what"); };
  LONGLORA_CHECK(true, data, text(), "where", "do");
  EXPECT_EQ(evaluated, 0);
  EXPECT_EQ(kind_of([&] { LONGLORA_CHECK(false, data, text(), "where", "do"); }), ErrorKind::data);
  EXPECT_EQ(evaluated, 1);
  const std::string sentence = error_of([] { LONGLORA_INVARIANT(1 + 1 == 3); });
  EXPECT_NE(sentence.find("broken invariant: 1 + 1 == 3 ("), std::string::npos) << sentence;
  EXPECT_NE(sentence.find("error_test.cpp:"), std::string::npos) << sentence;
}

}  // namespace
}  // namespace longlora
