// Deflates and inflates at every level, raw and with gzip headers, with a dictionary, through gzFile; checksums; damaged
// input.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { size = 1 << 19 };
static unsigned char data[size], back[size];

static size_t deflate_with(unsigned char* out, size_t room, int level, int bits, int strategy) {
  z_stream stream;
  memset(&stream, 0, sizeof stream);
  if (deflateInit2(&stream, level, Z_DEFLATED, bits, 9, strategy) != Z_OK) return 0;
  stream.next_out = out;
  stream.avail_out = (uInt)room;
  for (size_t at = 0; at < size; at += 5000) {
    stream.next_in = data + at;
    stream.avail_in = (uInt)(size - at < 5000 ? size - at : 5000);
    deflate(&stream, at + 5000 >= size ? Z_FINISH : Z_NO_FLUSH);
  }
  deflateEnd(&stream);
  return stream.total_out;
}

static int inflate_with(const unsigned char* in, size_t n, int bits) {
  z_stream stream;
  memset(&stream, 0, sizeof stream);
  memset(back, 0, size);
  if (inflateInit2(&stream, bits) != Z_OK) return -1;
  stream.next_in = (unsigned char*)in;
  stream.avail_in = (uInt)n;
  stream.next_out = back;
  stream.avail_out = size;
  int status = inflate(&stream, Z_FINISH);
  inflateEnd(&stream);
  return status == Z_STREAM_END && memcmp(data, back, size) == 0;
}

int main(void) {
  unsigned random = 7;
  for (size_t i = 0; i < size; i++) {
    random = random * 1664525 + 1013904223;
    data[i] = (unsigned char)(i % 5000 < 3000 ? "abcabcdabcde "[i % 13] : random >> 27);
  }
  size_t room = compressBound(size) + 100;
  unsigned char* packed = malloc(room);
  for (int level = 0; level <= 9; level++) {
    size_t n = deflate_with(packed, room, level, 15, Z_DEFAULT_STRATEGY);
    printf("level %d: %zu %08lx %d\n", level, n, adler32(1, packed, (uInt)n), inflate_with(packed, n, 15));
  }
  static const int strategies[] = {Z_FILTERED, Z_HUFFMAN_ONLY, Z_RLE, Z_FIXED};
  for (int i = 0; i < 4; i++) {
    size_t n = deflate_with(packed, room, 6, -15, strategies[i]);
    printf("strategy %d: %zu %d\n", i, n, inflate_with(packed, n, -15));
  }
  size_t n = deflate_with(packed, room, 6, 31, Z_DEFAULT_STRATEGY);
  printf("gzip %zu %d %d\n", n, inflate_with(packed, n, 31), inflate_with(packed, n, 47));
  packed[n / 2] ^= 1;
  printf("damaged %d\n", inflate_with(packed, n, 31));
  uLongf length = size;
  printf("garbage %d\n", uncompress(back, &length, (const unsigned char*)"garbage", 7));
  printf("crc %08lx adler %08lx %s\n", crc32(0, data, size), adler32(1, data, size), zlibVersion());
  char path[] = "/tmp/tenon_zlib_XXXXXX";
  close(mkstemp(path));
  gzFile file = gzopen(path, "wb9");
  gzprintf(file, "%s %d\n", "formatted", 42);
  gzwrite(file, data, 100000);
  gzclose(file);
  file = gzopen(path, "rb");
  char line[64];
  gzgets(file, line, sizeof line);
  printf("%s%d %d\n", line, gzread(file, back, size) == 100000, memcmp(back, data, 100000) == 0);
  gzclose(file);
  unlink(path);
  free(packed);
  return 0;
}
