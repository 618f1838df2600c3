// Standard streams, string streams, manipulators, standard input, arguments and the exit status.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <limits>
#include <map>
#include <sstream>
#include <string>

struct Point {
  int x, y;
};

std::ostream& operator<<(std::ostream& out, const Point& p) { return out << '(' << p.x << ',' << p.y << ')'; }
std::istream& operator>>(std::istream& in, Point& p) {
  char c;
  return in >> c >> p.x >> c >> p.y >> c;
}

int main(int argc, char** argv) {
  std::cout << "arguments: " << argc - 1;
  for (int i = 1; i < argc; ++i) std::cout << " [" << argv[i] << ']';
  std::cout << std::endl;
  std::cout << std::hex << std::showbase << 255 << ' ' << std::oct << 8 << std::dec << ' ' << std::setprecision(12)
            << 3.14159265358979 << ' ' << std::setw(10) << std::setfill('*') << -42 << ' ' << std::scientific << 1e-300
            << std::defaultfloat << '\n';
  std::istringstream words("the quick brown fox the lazy dog the end");
  std::map<std::string, int> counts;
  for (std::string word; words >> word;) ++counts[word];
  for (const auto& [word, count] : counts) std::cout << word << '=' << count << ' ';
  std::cout << '\n';
  Point p{};
  std::istringstream("(3,-4)") >> p;
  std::cout << p << ' ' << std::boolalpha << (std::numeric_limits<double>::max() > 1e308) << '\n';
  std::string line;
  int lines = 0;
  std::size_t length = 0;
  while (std::getline(std::cin, line)) {
    ++lines;
    length += line.size();
    if (lines <= 2) std::cout << "stdin: " << line << '\n';
  }
  std::cout << lines << " lines, " << length << " bytes, eof " << std::cin.eof() << '\n';
  std::ifstream missing("/nonexistent/file");
  std::cout << "missing " << !missing << '\n';
  try {
    missing.exceptions(std::ios::failbit);
  } catch (const std::ios_base::failure& e) {
    std::cout << "failure " << e.what() << '\n';
  }
  std::cerr << "to standard error\n";
  std::clog << "to the log\n";
  std::wcerr.flush();
  return 3;
}
