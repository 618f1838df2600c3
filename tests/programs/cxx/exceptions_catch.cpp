// Catches, or lets pass, what others throw.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "exceptions.h"
#include <any>
#include <cstdio>
#include <cstring>

Trace::Trace(const char* n) : name(n) { std::printf("+%s ", name); }
Trace::~Trace() { std::printf("-%s ", name); }

int guarded(const std::function<void()>& body) {
  Trace trace("guarded");
  try {
    body();
    std::printf("nothing thrown\n");
    return 0;
  } catch (const DerivedError& e) {
    std::printf("DerivedError %s %d\n", e.what(), e.code());
    return 1;
  } catch (const AppError& e) {
    std::printf("AppError %s %d\n", e.what(), e.code());
    return 2;
  } catch (int value) {
    std::printf("int %d\n", value);
    return 3;
  } catch (const char* text) {
    std::printf("text %s\n", text);
    return 4;
  } catch (const LocalPayload& payload) {
    std::printf("payload %ld\n", payload.values[2]);
    return 5;
  } catch (const std::string& text) {
    std::printf("string %s\n", text.c_str());
    return 6;
  } catch (const std::bad_any_cast& e) {
    std::printf("bad_any_cast %s\n", e.what());
    return 7;
  } catch (const std::logic_error& e) {
    std::printf("logic_error %s\n", std::strstr(e.what(), "at") ? "at" : e.what());
    return 8;
  } catch (const std::exception& e) {
    std::printf("exception %s\n", e.what());
    return 9;
  }
}

int through_many(int depth, const std::function<void()>& body) {
  struct Count {
    int& left;
    ~Count() { --left; }
  };
  static int left = 0;
  ++left;
  Count count{left};
  if (depth == 0)
    body();
  else
    through_many(depth - 1, body);
  return left;
}
