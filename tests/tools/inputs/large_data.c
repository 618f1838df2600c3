/* Takes 64 MiB of writable memory.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 */
static volatile char room[64 << 20];

int main(int argc, char **argv) {
  (void)argv;
  return room[argc << 20];
}
