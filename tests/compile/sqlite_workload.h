// What threads do with SQLite while its functions are replaced: cycles over a database of their own, each of which gives the
// same hash of all results every time.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/tenon.h>

#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::testing {

struct sqlite3;
struct sqlite3_stmt;
struct sqlite3_blob;

// The functions of one copy of SQLite that the workload calls.
struct Sqlite {
  int (*open_v2)(const char*, sqlite3**, int, const char*);
  int (*close)(sqlite3*);
  int (*prepare_v2)(sqlite3*, const char*, int, sqlite3_stmt**, const char**);
  int (*step)(sqlite3_stmt*);
  int (*reset)(sqlite3_stmt*);
  int (*finalize)(sqlite3_stmt*);
  int (*bind_int64)(sqlite3_stmt*, int, std::int64_t);
  int (*bind_text)(sqlite3_stmt*, int, const char*, int, void (*)(void*));
  int (*bind_double)(sqlite3_stmt*, int, double);
  int (*column_count)(sqlite3_stmt*);
  const unsigned char* (*column_text)(sqlite3_stmt*, int);
  int (*blob_open)(sqlite3*, const char*, const char*, const char*, std::int64_t, int, sqlite3_blob**);
  int (*blob_read)(sqlite3_blob*, void*, int, int);
  int (*blob_write)(sqlite3_blob*, const void*, int, int);
  int (*blob_close)(sqlite3_blob*);
  const char* (*errmsg)(sqlite3*);
  int (*shutdown)();

  explicit Sqlite(const Library& library) {
    get(library, "open_v2", open_v2);
    get(library, "close", close);
    get(library, "prepare_v2", prepare_v2);
    get(library, "step", step);
    get(library, "reset", reset);
    get(library, "finalize", finalize);
    get(library, "bind_int64", bind_int64);
    get(library, "bind_text", bind_text);
    get(library, "bind_double", bind_double);
    get(library, "column_count", column_count);
    get(library, "column_text", column_text);
    get(library, "blob_open", blob_open);
    get(library, "blob_read", blob_read);
    get(library, "blob_write", blob_write);
    get(library, "blob_close", blob_close);
    get(library, "errmsg", errmsg);
    get(library, "shutdown", shutdown);
  }

private:
  template <class F> static void get(const Library& library, const std::string& name, F*& function) {
    const auto address = library.find("sqlite3_" + name);
    if (!address) throw std::runtime_error("no sqlite3_" + name);
    function = address->template as<F*>();
  }
};

enum class Flavor { rollback, write_ahead, memory };

// One database, opened by the constructor; its file is removed by the destructor.
class Database {
public:
  Database(const Sqlite& api, std::string path, Flavor flavor);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Fills the database, works on it, checks it and empties it again. The hash of everything that it has answered.
  std::uint64_t cycle();

private:
  void run(const std::string& sql); // and hashes all values of all rows
  void check(int status, const char* what);
  void check_integrity();
  void insert(int rows);
  void use_blobs();
  void parse_much();
  void add(std::string_view text) {
    for (char c : text) hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    hash_ = (hash_ ^ 0xff) * 0x100000001b3;
  }

  const Sqlite& api_;
  const std::string path_;
  const Flavor flavor_;
  sqlite3* db_ = nullptr;
  std::uint64_t hash_ = 0;
};

inline constexpr int sqlite_row = 100, sqlite_done = 101;

inline Database::Database(const Sqlite& api, std::string path, Flavor flavor)
    : api_(api), path_(std::move(path)), flavor_(flavor) {
  std::remove(path_.c_str());
  constexpr int read_write_create = 6;
  check(api_.open_v2(flavor == Flavor::memory ? ":memory:" : path_.c_str(), &db_, read_write_create, nullptr), "open");
  if (flavor == Flavor::write_ahead) run("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 20");
  // Few pages, so that the pager writes and reads all the time.
  run("PRAGMA synchronous = OFF; PRAGMA cache_size = 12; PRAGMA page_size = 1024");
}

inline Database::~Database() {
  if (db_) api_.close(db_);
  for (const char* suffix : {"", "-journal", "-wal", "-shm"}) std::remove((path_ + suffix).c_str());
}

inline void Database::check(int status, const char* what) {
  if (status == 0) return;
  throw std::runtime_error(std::string(what) + ": error " + std::to_string(status) + ": " +
                           (db_ ? api_.errmsg(db_) : "not open"));
}

inline void Database::run(const std::string& sql) {
  const char* rest = sql.c_str();
  while (*rest != 0) {
    sqlite3_stmt* statement = nullptr;
    check(api_.prepare_v2(db_, rest, -1, &statement, &rest), sql.c_str());
    if (!statement) break;
    int status;
    while ((status = api_.step(statement)) == sqlite_row)
      for (int i = 0; i < api_.column_count(statement); ++i) {
        const auto* text = reinterpret_cast<const char*>(api_.column_text(statement, i));
        add(text ? text : "NULL");
      }
    check(api_.finalize(statement), sql.c_str());
    if (status != sqlite_done) throw std::runtime_error(sql + ": not done");
  }
}

inline void Database::check_integrity() {
  sqlite3_stmt* statement = nullptr;
  check(api_.prepare_v2(db_, "PRAGMA integrity_check", -1, &statement, nullptr), "integrity_check");
  std::string answer;
  while (api_.step(statement) == sqlite_row) answer += reinterpret_cast<const char*>(api_.column_text(statement, 0));
  check(api_.finalize(statement), "integrity_check");
  if (answer != "ok") throw std::runtime_error("integrity_check: " + answer);
}

inline void Database::insert(int rows) {
  run("BEGIN");
  sqlite3_stmt* statement = nullptr;
  check(api_.prepare_v2(db_, "INSERT INTO item VALUES(?, ?, ?, zeroblob(?))", -1, &statement, nullptr), "insert");
  std::uint32_t random = 12345;
  for (int i = 1; i <= rows; ++i) {
    random = random * 1664525 + 1013904223;
    const std::string name = "name" + std::to_string((random >> 8) % 1000);
    check(api_.bind_int64(statement, 1, i), "bind");
    check(api_.bind_text(statement, 2, name.c_str(), -1, nullptr), "bind");
    check(api_.bind_double(statement, 3, (random >> 4) % 10000 / 16.0), "bind");
    check(api_.bind_int64(statement, 4, (random >> 16) % 60 + (i % 50 == 0 ? 3000 : 0)), "bind");
    if (api_.step(statement) != sqlite_done) check(1, "insert");
    check(api_.reset(statement), "insert");
  }
  check(api_.finalize(statement), "insert");
  run("COMMIT");
}

inline void Database::use_blobs() {
  sqlite3_blob* blob = nullptr;
  check(api_.blob_open(db_, "main", "item", "data", 50, 1, &blob), "blob");
  for (int i = 0; i < 30; ++i) check(api_.blob_write(blob, "0123456789", 10, i * 90), "blob");
  std::string back(2000, 0);
  check(api_.blob_read(blob, back.data(), 2000, 500), "blob");
  check(api_.blob_close(blob), "blob");
  add(back);
}

inline void Database::parse_much() {
  std::string sql = "SELECT CASE";
  for (int i = 0; i < 20; ++i)
    sql += " WHEN price > " + std::to_string(600 - 30 * i) + " AND name LIKE '%" + std::to_string(i) + "' THEN (id + 1) * " +
           std::to_string(i) + " - abs(-id % 5) || 'x'";
  run(sql + " ELSE NULL END AS e, count(*) FROM item GROUP BY e HAVING count(*) > 1 ORDER BY 2 DESC, 1 LIMIT 10");
}

inline std::uint64_t Database::cycle() {
  hash_ = 0xcbf29ce484222325;
  run("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL, price REAL CHECK(price >= 0), data BLOB);"
      "CREATE TABLE note(item INT REFERENCES item(id), text TEXT, PRIMARY KEY(item, text)) WITHOUT ROWID;"
      "CREATE INDEX item_name ON item(name, price);"
      "CREATE TRIGGER raised AFTER UPDATE OF price ON item BEGIN INSERT OR IGNORE INTO note VALUES(new.id, 'raised'); END");
  insert(200);
  run("SELECT count(*), sum(price), max(name), total(length(data)) FROM item");
  run("SAVEPOINT a; UPDATE item SET price = price * 2 WHERE id % 3 = 0; SELECT count(*) FROM note;"
      "SAVEPOINT b; DELETE FROM item WHERE id % 2; SELECT count(*) FROM item; ROLLBACK TO b; RELEASE a");
  check_integrity();
  run("SELECT a.name, b.id, n.text FROM item a JOIN item b ON a.name = b.name AND a.id < b.id"
      " LEFT JOIN note n ON n.item = b.id ORDER BY a.price DESC, b.id LIMIT 40");
  run("SELECT id, rank() OVER (PARTITION BY id % 4 ORDER BY price), sum(price) OVER (ORDER BY id ROWS 5 PRECEDING)"
      " FROM item WHERE id BETWEEN 40 AND 90");
  run("WITH RECURSIVE fib(i, a, b) AS (SELECT 1, 0, 1 UNION ALL SELECT i + 1, b, (a + b) % 1000003 FROM fib WHERE i < 1500)"
      " SELECT sum(a), group_concat(a % 10, '') FROM fib");
  use_blobs();
  parse_much();
  run("DELETE FROM item WHERE id % 5 = 1; UPDATE item SET name = name || id WHERE id > 150;"
      "INSERT INTO note SELECT id, hex(substr(data, 1, 4)) FROM item WHERE id % 7 = 0;"
      "SELECT DISTINCT substr(name, 1, 5) FROM item WHERE name IN (SELECT name FROM item WHERE price > 100) ORDER BY 1");
  if (flavor_ != Flavor::memory) run("VACUUM");
  check_integrity();
  run("SELECT name, price FROM item ORDER BY random() * 0, price, id; DROP TABLE note; DROP TABLE item");
  return hash_;
}

} // namespace tenon::testing
