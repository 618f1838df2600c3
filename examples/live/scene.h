/* What main.c and draw.c share: the picture, and what moves in it.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception */
#ifndef SCENE_H
#define SCENE_H

#define TITLE "a ball in a box"
#define COLUMNS 48
#define ROWS 12

struct scene {
  char cells[ROWS][COLUMNS];
  double x, y, dx, dy; /* the ball: where, and how far it goes in a frame */
};

/* Both in draw.c: edit them while the program runs. */
void move(struct scene* scene);
void draw(struct scene* scene);

#endif
