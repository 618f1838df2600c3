/* The part that stays: it has the terminal and the clock. `q` ends it.
 *
 * main() itself is running for good, so a change of it is never seen; one of show() is.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception */
#include "scene.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

enum { frame_ms = 40 };

static struct termios before;

static void restore(void) {
  tcsetattr(STDIN_FILENO, TCSANOW, &before);
  printf("\x1b[?25h\n");
}

static void take_terminal(void) {
  if (tcgetattr(STDIN_FILENO, &before) != 0) {
    fprintf(stderr, "this needs a terminal\n");
    exit(2);
  }
  atexit(restore);
  struct termios raw = before;
  raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
  tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  printf("\x1b[?25l\x1b[2J");
}

/* The cursor is left below the picture, where what `tenon live` says is not painted over. */
static void show(const struct scene *scene) {
  printf("\x1b[H-- %s; q ends it --\x1b[K\n", TITLE);
  for (int row = 0; row < ROWS; ++row) printf("%.*s\x1b[K\n", COLUMNS, scene->cells[row]);
  fflush(stdout);
}

static int key(void) {
  struct pollfd input = {STDIN_FILENO, POLLIN, 0};
  char c = 0;
  if (poll(&input, 1, frame_ms) <= 0) return 0;
  return read(STDIN_FILENO, &c, 1) == 1 ? c : 'q';
}

int main(void) {
  static struct scene scene = {.dx = 0.9, .dy = 0.35};
  take_terminal();
  while (key() != 'q') {
    move(&scene);
    draw(&scene);
    show(&scene);
  }
  return 0;
}
