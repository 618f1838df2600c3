// A workload for SQLite: schema, bulk insertion, indexes, joins, window functions, recursive queries, full-text search if
// there is one, functions and collations written in C, transactions, blobs, JSON, and errors. Prints what it finds.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int rows;

static int print_row(void* label, int count, char** values, char** names) {
  (void)names;
  rows++;
  printf("%s:", (const char*)label);
  for (int i = 0; i < count; i++) printf(" %s", values[i] ? values[i] : "NULL");
  putchar('\n');
  return 0;
}

static void run(sqlite3* db, const char* label, const char* sql) {
  char* message = NULL;
  int status = sqlite3_exec(db, sql, print_row, (void*)label, &message);
  if (status != SQLITE_OK) printf("%s: error %d %s\n", label, status, message);
  sqlite3_free(message);
}

static void reverse(sqlite3_context* context, int count, sqlite3_value** values) {
  (void)count;
  int n = sqlite3_value_bytes(values[0]);
  const unsigned char* text = sqlite3_value_text(values[0]);
  char* out = sqlite3_malloc(n + 1);
  for (int i = 0; i < n; i++) out[i] = (char)text[n - 1 - i];
  sqlite3_result_text(context, out, n, sqlite3_free);
}

static void product_step(sqlite3_context* context, int count, sqlite3_value** values) {
  (void)count;
  double* state = sqlite3_aggregate_context(context, sizeof *state);
  if (*state == 0) *state = 1;
  *state *= sqlite3_value_double(values[0]);
}
static void product_final(sqlite3_context* context) {
  double* state = sqlite3_aggregate_context(context, sizeof *state);
  sqlite3_result_double(context, *state);
}

static int backwards(void* data, int na, const void* a, int nb, const void* b) {
  (void)data;
  int n = na < nb ? na : nb;
  int order = memcmp(b, a, n);
  return order ? order : nb - na;
}

int main(void) {
  sqlite3* db;
  if (sqlite3_open(":memory:", &db) != SQLITE_OK) return 1;
  run(db, "schema",
      "CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT, born INT, pay REAL, CHECK(pay >= 0));"
      "CREATE TABLE visit(person INT REFERENCES person(id) ON DELETE CASCADE, day INT, note BLOB);"
      "CREATE INDEX visit_person ON visit(person, day); PRAGMA foreign_keys = ON;"
      "CREATE TRIGGER pay_log AFTER UPDATE OF pay ON person BEGIN INSERT INTO visit VALUES(new.id, -1, 'raise'); END;");
  sqlite3_create_function(db, "reverse", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, reverse, NULL, NULL);
  sqlite3_create_function(db, "product", 1, SQLITE_UTF8, NULL, NULL, product_step, product_final);
  sqlite3_create_collation(db, "backwards", SQLITE_UTF8, NULL, backwards);
  sqlite3_stmt* insert;
  run(db, "begin", "BEGIN");
  sqlite3_prepare_v2(db, "INSERT INTO person VALUES(?, ?, ?, ?, ?)", -1, &insert, NULL);
  static const char* cities[] = {"Oslo", "Lima", "Kyoto", "Accra", NULL};
  unsigned random = 12345;
  for (int i = 1; i <= 4000; i++) {
    char name[32];
    random = random * 1103515245 + 12345;
    snprintf(name, sizeof name, "p%05u", (random >> 8) % 100000);
    sqlite3_bind_int(insert, 1, i);
    sqlite3_bind_text(insert, 2, name, -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(insert, 3, cities[i % 5], -1, SQLITE_STATIC);
    sqlite3_bind_int(insert, 4, 1940 + i % 60);
    sqlite3_bind_double(insert, 5, (random >> 4) % 100000 / 16.0);
    if (sqlite3_step(insert) != SQLITE_DONE) printf("insert failed: %s\n", sqlite3_errmsg(db));
    sqlite3_reset(insert);
  }
  sqlite3_finalize(insert);
  run(db, "visits",
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
      "INSERT INTO visit SELECT i * 7919 % 4000 + 1, i % 365, CASE WHEN i % 10 = 0 THEN zeroblob(i % 100) END FROM n; "
      "COMMIT;");
  run(db, "groups",
      "SELECT city, count(*), round(avg(pay), 4), min(name), max(born), group_concat(DISTINCT born % 3) FROM person "
      "GROUP BY city ORDER BY 2 DESC, 1");
  run(db, "join",
      "SELECT p.name, count(*) AS c, sum(length(v.note)) FROM person p JOIN visit v ON v.person = p.id "
      "WHERE p.city = 'Lima' AND v.day BETWEEN 10 AND 300 GROUP BY p.id ORDER BY c DESC, p.name LIMIT 5");
  run(db, "window",
      "SELECT name, pay, rank() OVER w, round(sum(pay) OVER w, 3), lag(name) OVER w FROM person WHERE id < 200 "
      "WINDOW w AS (PARTITION BY born ORDER BY pay DESC) ORDER BY born, pay LIMIT 8");
  run(db, "functions",
      "SELECT reverse(name), product(1 + born / 1e4), hex(zeroblob(3)), printf('%08.3f|%-5d|%q', 3.14159, 42, 'it''s') "
      "FROM person WHERE id <= 10");
  run(db, "collate", "SELECT name FROM person ORDER BY name COLLATE backwards LIMIT 3");
  run(db, "like", "SELECT count(*) FROM person WHERE name LIKE 'p%42_' OR name GLOB 'p0*[7-9]'");
  run(db, "fractal",
      "WITH RECURSIVE xaxis(x) AS (VALUES(-2.0) UNION ALL SELECT x + 0.1 FROM xaxis WHERE x < 1.2),"
      "yaxis(y) AS (VALUES(-1.0) UNION ALL SELECT y + 0.2 FROM yaxis WHERE y < 1.0),"
      "m(iter, cx, cy, x, y) AS (SELECT 0, x, y, 0.0, 0.0 FROM xaxis, yaxis UNION ALL "
      "SELECT iter + 1, cx, cy, x*x - y*y + cx, 2.0*x*y + cy FROM m WHERE (x*x + y*y) < 4.0 AND iter < 28),"
      "m2(iter, cx, cy) AS (SELECT max(iter), cx, cy FROM m GROUP BY cx, cy),"
      "a(t) AS (SELECT group_concat(substr(' .+*#', 1 + min(iter / 7, 4), 1), '') FROM m2 GROUP BY cy) "
      "SELECT '|' || group_concat(rtrim(t), x'0a') FROM a");
  run(db, "json",
      "SELECT json_extract('{\"a\":[1,2,{\"b\":\"c\"}]}', '$.a[2].b'), json_group_array(id) FROM person WHERE id < 6");
  run(db, "dates", "SELECT date('2024-02-29', '+1 year'), strftime('%j %W', '2021-12-31'), julianday('2000-01-01') - 0.5");
  run(db, "math", "SELECT round(exp(1), 10), 7 % 3, 1 << 40, 9223372036854775807 + 1, abs(-5.5), 10 / 4, 10 / 4.0");
  run(db, "update",
      "UPDATE person SET pay = pay * 1.1 WHERE city IS NULL; SELECT changes(), (SELECT count(*) FROM visit WHERE day = -1)");
  run(db, "delete", "DELETE FROM person WHERE born < 1950; SELECT count(*), (SELECT count(*) FROM visit) FROM person");
  run(db, "rollback", "BEGIN; DELETE FROM visit; SELECT count(*) FROM visit; ROLLBACK; SELECT count(*) FROM visit");
  run(db, "check", "INSERT INTO person VALUES(9999, 'x', 'y', 1, -1)");
  run(db, "unique", "INSERT INTO person VALUES(4000, 'x', 'y', 1, 1)");
  run(db, "syntax", "SELEKT 1");
  run(db, "missing", "SELECT nothing FROM nowhere");
  run(db, "fts",
      "CREATE VIRTUAL TABLE IF NOT EXISTS text USING fts5(body); INSERT INTO text VALUES('the quick brown fox'), ('lazy "
      "dogs sleep'),"
      "('quick dogs run'); SELECT rowid, highlight(text, 0, '<', '>') FROM text WHERE text MATCH 'quick NOT fox'");
  run(db, "rtree",
      "CREATE VIRTUAL TABLE box USING rtree(id, x0, x1, y0, y1); INSERT INTO box VALUES(1, 0, 10, 0, 10), (2, 5, 15, 5, 15);"
      "SELECT id FROM box WHERE x0 <= 12 AND x1 >= 12");
  run(db, "vacuum", "VACUUM; PRAGMA integrity_check; PRAGMA page_count");
  printf("%d rows\n", rows);
  sqlite3_close(db);
  return rows > 30 ? 0 : 2;
}
