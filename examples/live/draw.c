/* How the ball moves and what it looks like. Change this while it runs: another character, a trail, gravity.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception */
#include "scene.h"

#include <stdio.h>
#include <string.h>

static long frames;  /* goes on counting from one version to the next */
static long bounces;

void move(struct scene *scene) {
  scene->x += scene->dx;
  scene->y += scene->dy;
  if (scene->x < 0 || scene->x > COLUMNS - 1) {
    scene->dx = -scene->dx;
    scene->x += 2 * scene->dx;
    ++bounces;
  }
  if (scene->y < 0 || scene->y > ROWS - 2) {
    scene->dy = -scene->dy;
    scene->y += 2 * scene->dy;
    ++bounces;
  }
}

void draw(struct scene *scene) {
  char text[COLUMNS + 1];
  memset(scene->cells, ' ', sizeof scene->cells);
  scene->cells[(int)scene->y][(int)scene->x] = 'o';
  int length = snprintf(text, sizeof text, "frame %ld, %ld bounces", ++frames, bounces);
  memcpy(scene->cells[ROWS - 1], text, (size_t)length);
}
