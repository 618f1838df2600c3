/* Real work for SQLite in memory: a shop's books. Every query prints a few lines, which do not depend on time or chance.
 * `tenon run` compiles this file with clang and links it with Debian's libsqlite3.a into its own process; clang links it in the
 * ordinary way just as well: clang driver.c -lsqlite3.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

static sqlite3 *db;

static void check(int status, const char *what) {
  if (status != SQLITE_OK && status != SQLITE_DONE && status != SQLITE_ROW) {
    fprintf(stderr, "%s: %s\n", what, sqlite3_errmsg(db));
    exit(1);
  }
}

static void execute(const char *sql) { check(sqlite3_exec(db, sql, NULL, NULL, NULL), sql); }

static int print_row(void *unused, int columns, char **values, char **names) {
  (void)unused;
  (void)names;
  for (int i = 0; i < columns; i++)
    printf("%s%s", i ? "  " : "  ", values[i] ? values[i] : "NULL");
  putchar('\n');
  return 0;
}

static void query(const char *title, const char *sql) {
  printf("%s:\n", title);
  check(sqlite3_exec(db, sql, print_row, NULL, NULL), sql);
}

/* A function of our own, which SQLite calls back for every row. */
static void discount(sqlite3_context *context, int count, sqlite3_value **arguments) {
  (void)count;
  double price = sqlite3_value_double(arguments[0]);
  sqlite3_int64 quantity = sqlite3_value_int64(arguments[1]);
  sqlite3_result_double(context, price * (double)quantity * (quantity >= 8 ? 0.9 : 1.0));
}

static void fill(int customers, int orders) {
  unsigned state = 12345; /* a linear congruential generator: the same rows everywhere */
  sqlite3_stmt *customer, *order;
  execute("BEGIN");
  check(sqlite3_prepare_v2(db, "INSERT INTO customers VALUES (?1, 'customer ' || ?1, ?2)", -1, &customer, NULL), "prepare");
  for (int i = 1; i <= customers; i++) {
    static const char *const towns[] = {"Aachen", "Bergen", "Cork", "Dijon", "Evora"};
    sqlite3_bind_int(customer, 1, i);
    sqlite3_bind_text(customer, 2, towns[i % 5], -1, SQLITE_STATIC);
    check(sqlite3_step(customer), "insert customer");
    sqlite3_reset(customer);
  }
  check(sqlite3_prepare_v2(db, "INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5)", -1, &order, NULL), "prepare");
  for (int i = 1; i <= orders; i++) {
    state = state * 1103515245u + 12345u;
    sqlite3_bind_int(order, 1, i);
    sqlite3_bind_int(order, 2, (int)(state >> 8) % customers + 1);
    sqlite3_bind_int(order, 3, i % 365);
    sqlite3_bind_double(order, 4, (double)((state >> 4) % 10000) / 100.0);
    sqlite3_bind_int(order, 5, (int)(state >> 20) % 10 + 1);
    check(sqlite3_step(order), "insert order");
    sqlite3_reset(order);
  }
  sqlite3_finalize(customer);
  sqlite3_finalize(order);
  execute("COMMIT");
}

int main(int argc, char **argv) {
  int orders = argc > 1 ? atoi(argv[1]) : 40000;
  check(sqlite3_open(":memory:", &db), "open");
  check(sqlite3_create_function(db, "discount", 2, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, discount, NULL, NULL), "function");
  printf("SQLite %s, %d orders\n", sqlite3_libversion(), orders);
  execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, town TEXT);"
          "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customers, day INTEGER,"
          "                     price REAL, quantity INTEGER);");
  fill(1000, orders);
  execute("CREATE INDEX orders_by_customer ON orders (customer, day)");

  query("turnover by town", "SELECT town, count(*), printf('%.2f', sum(discount(price, quantity))) FROM orders JOIN customers "
                            "ON customers.id = orders.customer GROUP BY town ORDER BY town");
  query("best customers", "SELECT name, town, printf('%.2f', total), rank FROM (SELECT name, town, sum(price * quantity) AS total,"
                          " rank() OVER (PARTITION BY town ORDER BY sum(price * quantity) DESC) AS rank FROM orders JOIN customers"
                          " ON customers.id = orders.customer GROUP BY customers.id) WHERE rank = 1 ORDER BY town");
  query("moving average of the last days", "WITH days AS (SELECT day, sum(price * quantity) AS total FROM orders GROUP BY day)"
                                           " SELECT * FROM (SELECT day, printf('%.2f', avg(total) OVER (ORDER BY day ROWS BETWEEN"
                                           " 6 PRECEDING AND CURRENT ROW)) FROM days) ORDER BY day DESC LIMIT 3");
  query("primes below 60, by a recursive query",
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 59) SELECT group_concat(i, ' ') FROM n AS a "
        "WHERE NOT EXISTS (SELECT 1 FROM n AS b WHERE b.i < a.i AND a.i % b.i = 0)");
  execute("BEGIN; UPDATE orders SET price = price * 2 WHERE day < 100; DELETE FROM orders WHERE quantity = 1; ROLLBACK");
  query("as before after a rollback", "SELECT count(*), printf('%.2f', sum(price)) FROM orders");
  query("integrity", "PRAGMA integrity_check");
  sqlite3_close(db);
  return 0;
}
