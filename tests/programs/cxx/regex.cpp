// std::regex: a great many templates and COMDAT functions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <iostream>
#include <regex>
#include <string>

int main() {
  std::string text = "Alice <alice@example.org>, Bob <bob.b@example.com>; 2024-05-06 and 1999-12-31; tel. +49 30 901820";
  std::regex mail(R"((\w+(?:\.\w+)*)@(\w+)\.(\w{2,3}))");
  for (std::sregex_iterator i(text.begin(), text.end(), mail), end; i != end; ++i)
    std::cout << (*i)[1] << " at " << (*i)[2] << " dot " << (*i)[3] << '\n';
  std::cout << std::regex_replace(text, std::regex(R"((\d{4})-(\d\d)-(\d\d))"), "$3.$2.$1") << '\n';
  std::smatch match;
  std::cout << std::regex_search(text, match, std::regex("BOB", std::regex::icase)) << ' ' << match.position() << '\n';
  std::cout << std::regex_match("aaaaab", std::regex("(a*)*b")) << std::regex_match("xyz", std::regex("[[:digit:]]+"))
            << '\n';
  try {
    std::regex bad("(unclosed");
  } catch (const std::regex_error& e) {
    std::cout << "regex_error " << (e.code() == std::regex_constants::error_paren) << '\n';
  }
  return 0;
}
